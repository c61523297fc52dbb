// Products by unpacking a small block of entries to floats and multiplying it at once.
//
// Included once for each instruction set, inside its namespace, after turn.h. The arithmetic is that of a dense
// product in float32, so that zeros, infinities and NaN behave the same.

typedef float LooseVector __attribute__((vector_size(4 * LANES), aligned(4)));

constexpr int64_t PANEL = 2 * LANES;   // outputs that are multiplied together
constexpr int64_t TILE = 8 * WIDTH;    // columns whose bits are turned together
constexpr int64_t DEPTH = UNIT;        // inputs of a block of rows
constexpr int64_t TURNED_DEPTH = 64;   // inputs of a block of columns
constexpr int64_t BATCH = 96;          // rows of x that go with a block
constexpr int64_t MOST = 6;            // rows of x that are multiplied together
constexpr int64_t BLOCK = TILE * TURNED_DEPTH > WIDTH * DEPTH ? TILE * TURNED_DEPTH : WIDTH * DEPTH;

inline Vector load(const float* p) { return *reinterpret_cast<const LooseVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<LooseVector*>(p) = v; }

constexpr int64_t round_up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }

// Codes of WIDTH outputs become floats in this order, which takes no shuffle across the parts of a vector.
constexpr int64_t spot(int64_t output) { return output / 4 % 4 * LANES + output / 16 * 4 + output % 4; }

// WIDTH floats in the order of their outputs.
inline void in_order(const float* from, float* to) {
  for (int64_t k = 0; k < WIDTH; k += 4) std::memcpy(to + k, from + spot(k), 16);
}

// The four vectors of entries that WIDTH codes make. A code behind the exponent of 2^23 is a float; what is above 2^23
// of it is exact.
inline __attribute__((always_inline)) void entries_of(Bytes codes, const Vector* gains, const Vector* shifts,
                                                      Vector* to) {
  const Bytes none = all_bytes(0), exponents = all_ints(0x4b004b00);
  const Bytes low = low_bytes(codes, none), high = high_bytes(codes, none);
  const Bytes whole[4] = {low_shorts(low, exponents), high_shorts(low, exponents), low_shorts(high, exponents),
                          high_shorts(high, exponents)};
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) to[k] = (as_floats(whole[k]) - 0x1p23f) * gains[k] - shifts[k];
}

inline __attribute__((always_inline)) void store_entries(Bytes codes, const Vector* gains, const Vector* shifts,
                                                         float* to, int64_t apart) {
  Vector entries[4];
  entries_of(codes, gains, shifts, entries);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) store(to + k / 2 * apart + k % 2 * LANES, entries[k]);
}

// What group `g` of rows `i`.. multiplies codes by and then takes away.
inline void read_gains(const Weights& w, int64_t i, int64_t rows, int64_t g, bool levels, float* gains, float* shifts) {
  float scales[WIDTH];
  if (levels) std::fill(scales, scales + WIDTH, 1.0f);
  else if (w.groups == 1) w.scales.read(scales, i, rows);
  else if (w.scales.type == Type::f32) {
    const float* from = static_cast<const float*>(w.scales.data) + i * w.groups + g;
    for (int64_t r = 0; r < rows; ++r) scales[r] = from[r * w.groups];
  } else {
    for (int64_t r = 0; r < rows; ++r) scales[r] = w.scales.at((i + r) * w.groups + g);
  }
  for (int64_t r = 0; r < rows; ++r) {
    gains[spot(r)] = scales[r] * w.step;
    shifts[spot(r)] = scales[r] * w.offset;
  }
}

// The codes of rows `i`.. and the unit of columns from `c`, as codes[column]: of up to BITS planes.
template <int BITS>
inline void unpack_codes(const Weights& w, int64_t i, int64_t c, Bytes* codes) {
  Bytes turned[BITS][16];
  for (int64_t p = 0; p < BITS; ++p)
    if (p < w.bits) turn_rows(w, p, i, c / 8, turned[p]);
    else std::fill(turned[p], turned[p] + 16, all_bytes(0));
  for (int64_t byte = 0; byte < UNIT / 8; ++byte, codes += 8) {
    Bytes of[8];
    if (BITS > 2) {
#pragma GCC unroll 8
      for (int p = 0; p < 8; ++p) of[p] = p < BITS ? turned[p][byte] : all_bytes(0);
      turn_bits(of);
    } else {
      const Bytes one = all_bytes(1), two = all_bytes(2);
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) {
        of[bit] = both(shift_right(turned[0][byte], bit), one);
        if (BITS == 2) {
          const Bytes second = turned[BITS - 1][byte];
          of[bit] = differ(of[bit], both(bit ? shift_right(second, bit - 1) : shift_left(second, 1), two));
        }
      }
    }
#pragma GCC unroll 8
    for (int bit = 0; bit < 8; ++bit) codes[bit] = of[bit];
  }
}

// Calls `use(column, entries)` for the unit of columns from `c`, with those of rows `i`.. as four vectors; levels, without
// scales, if asked for.
template <class Use>
inline void unpack_unit(const Weights& w, int64_t i, int64_t c, bool levels, Use use) {
  Bytes codes[UNIT];
  if (w.bits == 1) unpack_codes<1>(w, i, c, codes);
  else if (w.bits == 2) unpack_codes<2>(w, i, c, codes);
  else if (w.bits <= 4) unpack_codes<4>(w, i, c, codes);
  else unpack_codes<8>(w, i, c, codes);
  const int64_t end = std::min(c + UNIT, w.n), rows = std::min<int64_t>(WIDTH, w.m - i);
  alignas(64) float gains[WIDTH] = {}, shifts[WIDTH] = {};
  for (int64_t g = c / w.group, column = c; column < end; ++g) {
    read_gains(w, i, rows, g, levels, gains, shifts);
    Vector gain[4], shift[4], entries[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) gain[k] = load(gains + k * LANES), shift[k] = load(shifts + k * LANES);
    for (const int64_t stop = std::min(end, (g + 1) * w.group); column < stop; ++column) {
      entries_of(codes[column - c], gain, shift, entries);
      use(column - c, entries);
    }
  }
}

// As block[panel][column][row].
inline void unpack_rows(const Weights& w, int64_t i, int64_t c, bool levels, float* block) {
  unpack_unit(w, i, c, levels, [&](int64_t column, const Vector* entries) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) store(block + k / 2 * DEPTH * PANEL + column * PANEL + k % 2 * LANES, entries[k]);
  });
}

// Rows `i`.. of all columns in their order, as entries[column][row] with rows `stride` apart; room for WIDTH of them.
inline void unpack_turned(const Weights& w, int64_t i, int64_t stride, float* to) {
  for (int64_t c = 0; c < w.n; c += UNIT)
    unpack_unit(w, i, c, false, [&](int64_t column, const Vector* entries) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
        for (int part = 0; part < LANES / 4; ++part)
          std::memcpy(to + (c + column) * stride + part * 16 + k * 4, reinterpret_cast<const float*>(entries + k) + part * 4, 16);
    });
}

// The TILE columns from `j` and rows from `i`, as block[panel][row][column]. Of 8 columns in a row, each is in another
// vector: output r * WIDTH + spot(k) is column 8 * k + r.
inline void unpack_columns(const Weights& w, int64_t i, int64_t j, int64_t count, float* block) {
  alignas(64) float gains[8][WIDTH], shifts[8][WIDTH];
  const bool same = w.groups == 1 || w.group % 8 == 0;  // for the 8 columns of a byte
  Bytes rows[8][16];  // of each plane
  for (int64_t row = 0; row < count; ++row, block += PANEL) {
    for (int r = 0; r < (same ? 1 : 8); ++r)
      for (int64_t k = 0; k < WIDTH;) {
        // Past the last column the last group goes on; nobody reads that.
        const int64_t group = std::min((j + 8 * k + r) / w.group, w.groups - 1);
        const int64_t end = group == w.groups - 1 ? WIDTH : round_up((group + 1) * w.group - j - r, 8) / 8;
        const float scale = w.scales.at((i + row) * w.groups + group);
        for (; k < std::min(end, WIDTH); ++k) {
          gains[r][spot(k)] = scale * w.step;
          shifts[r][spot(k)] = scale * w.offset;
        }
      }
    Bytes codes[8];
    if (row % 16 == 0)
      for (int64_t p = 0; p < w.bits; ++p) sixteen_rows(w, p, i + row, j / 8, rows[p]);
#pragma GCC unroll 8
    for (int p = 0; p < 8; ++p) codes[p] = p < w.bits ? rows[p][row % 16] : all_bytes(0);
    turn_bits(codes);
    Vector gain[4], shift[4];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      if (r == 0 || !same)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) gain[k] = load(gains[r] + k * LANES), shift[k] = load(shifts[r] + k * LANES);
      store_entries(codes[r], gain, shift, block + 2 * r * TURNED_DEPTH * PANEL, TURNED_DEPTH * PANEL);
    }
  }
}

// out[row][output] += x[row][k] * block[k][output], for ROWS rows of x.
template <int ROWS>
inline void multiply(const float* x, const float* block, int64_t depth, float* out, int64_t stride) {
  // An addition takes longer than there are few rows to alternate between: then several sums of each.
  constexpr int SUMS = ROWS >= 4 ? 1 : ROWS >= 2 ? 2 : 4;
  Vector sums[SUMS][ROWS][2] = {};
  const auto add = [&](int64_t k, Vector(*to)[2]) __attribute__((always_inline)) {
    const Vector low = load(block + k * PANEL), high = load(block + k * PANEL + LANES);
    for (int r = 0; r < ROWS; ++r) {
      to[r][0] += low * x[r * DEPTH + k];
      to[r][1] += high * x[r * DEPTH + k];
    }
  };
  int64_t k = 0;
  for (; k + SUMS <= depth; k += SUMS)
    for (int s = 0; s < SUMS; ++s) add(k + s, sums[s]);
  for (; k < depth; ++k) add(k, sums[0]);
  for (int r = 0; r < ROWS; ++r)
    for (int h = 0; h < 2; ++h) {
      Vector sum = sums[0][r][h];
      for (int s = 1; s < SUMS; ++s) sum += sums[s][r][h];
      store(out + r * stride + h * LANES, load(out + r * stride + h * LANES) + sum);
    }
}

// The same for any number of rows and some panels of a block, `apart` floats from each other. Few rows at a time, shared
// out evenly, go with all panels: those stay in the nearest cache.
inline void multiply_rows(const float* x, int64_t rows, const float* block, int64_t panels, int64_t apart,
                          int64_t depth, float* out, int64_t stride) {
  for (int64_t left = (rows + MOST - 1) / MOST, row = 0; left > 0; --left) {
    const int64_t count = (rows - row + left - 1) / left;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const float* from = x + row * DEPTH;
      const float* entries = block + panel * apart;
      float* to = out + row * stride + panel * PANEL;
      if (count == 6) multiply<6>(from, entries, depth, to, stride);
      if (count == 5) multiply<5>(from, entries, depth, to, stride);
      if (count == 4) multiply<4>(from, entries, depth, to, stride);
      if (count == 3) multiply<3>(from, entries, depth, to, stride);
      if (count == 2) multiply<2>(from, entries, depth, to, stride);
      if (count == 1) multiply<1>(from, entries, depth, to, stride);
    }
    row += count;
  }
}

constexpr int64_t unpack_scratch(int64_t outputs, int64_t batch) {
  return 4 * (BLOCK + batch * (DEPTH + round_up(outputs, TILE)));
}

inline void unpack_product(const Job& job, const Part& part, float* block) {
  const int64_t batch = part.batch_last - part.batch_first, stride = round_up(part.last - part.first, WIDTH);
  float *x = block + BLOCK, *sums = x + batch * DEPTH;
  std::fill(sums, sums + batch * stride, 0.0f);
  for (int64_t k = 0; k < job.w.n; k += DEPTH) {
    const int64_t depth = std::min(DEPTH, job.w.n - k);
    for (int64_t b = 0; b < batch; ++b) job.x.read(x + b * DEPTH, (part.batch_first + b) * job.w.n + k, depth);
    for (int64_t i = part.first; i < part.last; i += WIDTH) {
      unpack_rows(job.w, i, k, false, block);
      multiply_rows(x, batch, block, WIDTH / PANEL, DEPTH * PANEL, depth, sums + i - part.first, stride);
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = part.first; i < part.last; i += WIDTH) {
      float line[WIDTH];
      in_order(sums + b * stride + i - part.first, line);
      job.y.write((part.batch_first + b) * job.w.m + i, line, std::min(WIDTH, part.last - i));
    }
}

inline void unpack_adjoint(const Job& job, const Part& part, float* block) {
  const int64_t batch = part.batch_last - part.batch_first, stride = round_up(part.last - part.first, TILE);
  float *x = block + BLOCK, *sums = x + batch * DEPTH;
  std::fill(sums, sums + batch * stride, 0.0f);
  for (int64_t k = 0; k < job.w.m; k += TURNED_DEPTH) {
    const int64_t depth = std::min(TURNED_DEPTH, job.w.m - k);
    for (int64_t b = 0; b < batch; ++b) job.x.read(x + b * DEPTH, (part.batch_first + b) * job.w.m + k, depth);
    for (int64_t j = part.first; j < part.last; j += TILE) {
      unpack_columns(job.w, k, j, depth, block);
      for (int64_t o = 0; o < TILE; o += PANEL)
        multiply_rows(x, batch, block + o * TURNED_DEPTH, 1, 0, depth, sums + j - part.first + o, stride);
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t j = part.first; j < part.last; j += TILE) {
      float line[TILE];
      const float* turned = sums + b * stride + j - part.first;
      for (int64_t c = 0; c < TILE; ++c) line[c] = turned[c % 8 * WIDTH + spot(c / 8)];
      job.y.write((part.batch_first + b) * job.w.n + j, line, std::min(TILE, part.last - j));
    }
}

constexpr int64_t scale_sums_scratch() { return 4 * (BLOCK + BATCH * (DEPTH + WIDTH)); }

// The gradient by the scales: rows `part.first` to `part.last`, the whole batch.
inline void unpack_scale_sums(const Job& job, const Part& part, float* block) {
  const Weights& w = job.w;
  float *x = block + BLOCK, *products = x + BATCH * DEPTH, *y = static_cast<float*>(job.y.data);
  std::fill(y + part.first * w.groups, y + part.last * w.groups, 0.0f);
  for (int64_t c = 0; c < w.n; c += UNIT)
    for (int64_t start = 0; start < job.batch; start += BATCH) {
      const int64_t end = std::min(c + UNIT, w.n), batch = std::min(BATCH, job.batch - start);
      for (int64_t b = 0; b < batch; ++b) job.x.read(x + b * DEPTH, (start + b) * w.n + c, end - c);
      for (int64_t i = part.first; i < part.last; i += WIDTH) {
        const int64_t rows = std::min<int64_t>(WIDTH, part.last - i);
        unpack_rows(w, i, c, true, block);
        for (int64_t g = c / w.group; g * w.group < end; ++g) {
          const int64_t from = std::max(g * w.group, c) - c, to = std::min((g + 1) * w.group, end) - c;
          std::fill(products, products + batch * WIDTH, 0.0f);
          multiply_rows(x + from, batch, block + from * PANEL, WIDTH / PANEL, DEPTH * PANEL, to - from, products, WIDTH);
          float left[WIDTH], sums[WIDTH] = {};
          for (int64_t b = 0; b < batch; ++b) {
            job.left.read(left, (start + b) * w.m + i, rows);
            for (int64_t r = 0; r < rows; ++r) sums[r] += left[r] * products[b * WIDTH + spot(r)];
          }
          for (int64_t r = 0; r < rows; ++r) y[(i + r) * w.groups + g] += sums[r];
        }
      }
    }
}

inline void run_unpack(const Job& job, const Part& part, void* scratch) {
  float* block = static_cast<float*>(scratch);
  if (job.left.data) return unpack_scale_sums(job, part, block);
  if (job.adjoint) return unpack_adjoint(job, part, block);
  unpack_product(job, part, block);
}

inline int64_t scratch_bytes(const Job& job, int64_t outputs, int64_t batch) {
  return job.left.data ? scale_sums_scratch() : unpack_scratch(outputs, batch);
}
