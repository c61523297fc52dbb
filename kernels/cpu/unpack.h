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
constexpr int64_t BLOCK = TILE * TURNED_DEPTH > WIDTH * DEPTH ? TILE * TURNED_DEPTH : WIDTH * DEPTH;

inline Vector load(const float* p) { return *reinterpret_cast<const LooseVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<LooseVector*>(p) = v; }

constexpr int64_t round_up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }

// Entries from codes of WIDTH outputs: to two panels, `apart` floats from each other.
inline void store_entries(Bytes codes, const float* gains, const float* shifts, float* to, int64_t apart) {
  alignas(64) uint8_t each[WIDTH];
  std::memcpy(each, &codes, WIDTH);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)
    store(to + k / 2 * apart + k % 2 * LANES,
          floats_of(each + k * LANES) * load(gains + k * LANES) - load(shifts + k * LANES));
}

// Rows `i`.. and the unit of columns from `c`, as block[panel][column][row]; levels, without scales, if asked for.
inline void unpack_rows(const Weights& w, int64_t i, int64_t c, bool levels, float* block) {
  Bytes turned[8][16];
  for (int64_t p = 0; p < w.bits; ++p) turn_rows(w, p, i, c / 8, turned[p]);
  alignas(64) float gains[WIDTH] = {}, shifts[WIDTH] = {};
  int64_t group = c / w.group - 1, group_end = c;
  const int64_t end = std::min(c + UNIT, w.n), rows = std::min<int64_t>(WIDTH, w.m - i);
  for (int64_t byte = 0; c + 8 * byte < end; ++byte) {
    Bytes codes[8];
#pragma GCC unroll 8
    for (int p = 0; p < 8; ++p) codes[p] = p < w.bits ? turned[p][byte] : all_bytes(0);
    turn_bits(codes);
#pragma GCC unroll 8
    for (int bit = 0; bit < 8; ++bit) {
      const int64_t column = 8 * byte + bit;
      if (c + column >= group_end && c + column < end) {
        group_end = (++group + 1) * w.group;
        for (int64_t r = 0; r < rows; ++r) {
          const float scale = levels ? 1 : w.scales.at((i + r) * w.groups + group);
          gains[r] = scale * w.step;
          shifts[r] = scale * w.offset;
        }
      }
      store_entries(codes[bit], gains, shifts, block + column * PANEL, DEPTH * PANEL);
    }
  }
}

// The TILE columns from `j` and rows from `i`, as block[panel][row][column]. Of 8 columns in a row, each is in another
// vector: output r * WIDTH + k is column 8 * k + r.
inline void unpack_columns(const Weights& w, int64_t i, int64_t j, int64_t count, float* block) {
  alignas(64) float gains[8][WIDTH], shifts[8][WIDTH];
  const bool same = w.groups == 1 || w.group % 8 == 0;  // for the 8 columns of a byte
  for (int64_t row = 0; row < count; ++row, block += PANEL) {
    for (int r = 0; r < (same ? 1 : 8); ++r)
      for (int64_t k = 0; k < WIDTH;) {
        // Past the last column the last group goes on; nobody reads that.
        const int64_t group = std::min((j + 8 * k + r) / w.group, w.groups - 1);
        const int64_t end = group == w.groups - 1 ? WIDTH : round_up((group + 1) * w.group - j - r, 8) / 8;
        const float scale = w.scales.at((i + row) * w.groups + group);
        for (; k < std::min(end, WIDTH); ++k) {
          gains[r][k] = scale * w.step;
          shifts[r][k] = scale * w.offset;
        }
      }
    Bytes codes[8];
#pragma GCC unroll 8
    for (int p = 0; p < 8; ++p) codes[p] = p < w.bits ? row_bytes(w, p, i + row, j / 8) : all_bytes(0);
    turn_bits(codes);
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r)
      store_entries(codes[r], gains[same ? 0 : r], shifts[same ? 0 : r], block + 2 * r * TURNED_DEPTH * PANEL,
                    TURNED_DEPTH * PANEL);
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

inline void multiply_rows(const float* x, int64_t rows, const float* block, int64_t depth, float* out, int64_t stride) {
  for (; rows >= 6; rows -= 6, x += 6 * DEPTH, out += 6 * stride) multiply<6>(x, block, depth, out, stride);
  if (rows == 5) multiply<5>(x, block, depth, out, stride);
  if (rows == 4) multiply<4>(x, block, depth, out, stride);
  if (rows == 3) multiply<3>(x, block, depth, out, stride);
  if (rows == 2) multiply<2>(x, block, depth, out, stride);
  if (rows == 1) multiply<1>(x, block, depth, out, stride);
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
      for (int64_t o = 0; o < WIDTH; o += PANEL)
        multiply_rows(x, batch, block + o * DEPTH, depth, sums + i - part.first + o, stride);
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    job.y.write((part.batch_first + b) * job.w.m + part.first, sums + b * stride, part.last - part.first);
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
        multiply_rows(x, batch, block + o * TURNED_DEPTH, depth, sums + j - part.first + o, stride);
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t j = part.first; j < part.last; j += TILE) {
      float line[TILE];
      const float* turned = sums + b * stride + j - part.first;
      for (int64_t c = 0; c < TILE; ++c) line[c] = turned[c % 8 * WIDTH + c / 8];
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
          for (int64_t o = 0; o < WIDTH; o += PANEL)
            multiply_rows(x + from, batch, block + o * DEPTH + from * PANEL, to - from, products + o, WIDTH);
          float left[WIDTH], sums[WIDTH] = {};
          for (int64_t b = 0; b < batch; ++b) {
            job.left.read(left, (start + b) * w.m + i, rows);
            for (int64_t r = 0; r < rows; ++r) sums[r] += left[r] * products[b * WIDTH + r];
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
