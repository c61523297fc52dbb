// Products by looking up sums of four inputs at once: one byte shuffle does it for as many outputs as a
// vector has bytes.
//
// Included once for each instruction set, inside its namespace, after unpack.h. For every four inputs there are 16 possible sums of +x and -x.
// The inputs of a unit of 128 are rounded to whole multiples of 1 / 2097151 of the largest, so that a sum fits
// 24 bits; these are stored as four tables of 6-bit digits, and four digits add up inside a byte. All sums are
// exact from there to the end of the unit (or of a group of columns with one scale), where they become floats.

constexpr int64_t PIECE = 16;            // inputs that are looked up together; a group has a whole number of them
constexpr int64_t TABLES = UNIT * 16;    // bytes of the tables of a unit
constexpr int64_t STRIP = 4 * UNIT;      // columns of a cache line
constexpr int64_t NEAR = 4 * WIDTH;      // rows whose part of a strip stays in the nearest cache
constexpr int64_t HELD = 64;             // units whose tables stay in the second nearest
constexpr int64_t VECTORS = 8;           // rows of x that are looked up while the weights are at hand
constexpr float LARGEST = 2097151;       // four of them, and the 2^23 that makes sums positive, fit 24 bits
constexpr int32_t MIDDLE = 1 << 23;

// A unit of one row of x.
struct Unit {
  alignas(64) uint8_t tables[TABLES];
  float scale;
  float sums[UNIT / PIECE];  // of x, by piece
};

// Where `look_up` leaves the sum of an output among WIDTH of them, and which output is left at a place.
inline int64_t place(int64_t output) {
  const int64_t pair = output / 2;
  return output % 2 * (WIDTH / 2) + pair % 8 / 4 * (WIDTH / 4) + pair / 8 * 4 + pair % 4;
}
inline int64_t output(int64_t place) {
  const int64_t quarter = place % (WIDTH / 4);
  return 2 * (quarter / 4 * 8 + place % (WIDTH / 2) / (WIDTH / 4) * 4 + quarter % 4) + place / (WIDTH / 2);
}

// The tables of 128 inputs; false where these are not finite, or so large or small that scaling them would not
// be exact enough.
inline bool prepare(const float* x, Unit* unit) {
  // Compared as integers, sizes are in the same order and NaN comes last.
  __m256i sizes = _mm256_setzero_si256();
  for (int64_t k = 0; k < UNIT; k += 8)
    sizes = _mm256_max_epi32(sizes, _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k)),
                                                     _mm256_set1_epi32(0x7fffffff)));
  alignas(32) float each[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(each), sizes);
  float largest = 0;
  for (float size : each) {
    if (!(size <= 0x1p100f)) return false;
    largest = std::max(largest, size);
  }
  if (largest > 0 && largest < 0x1p-80f) return false;
  const float inverse = largest > 0 ? LARGEST / largest : 0;
  unit->scale = largest / LARGEST;
  alignas(64) int32_t whole[UNIT];
  for (int64_t k = 0; k < UNIT; k += 8)
    _mm256_store_si256(reinterpret_cast<__m256i*>(whole + k),
                       _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), _mm256_set1_ps(inverse))));
  for (int64_t k = 0; k < UNIT / PIECE; ++k) {
    int32_t sum = 0;
    for (int64_t c = 0; c < PIECE; ++c) sum += whole[k * PIECE + c];
    unit->sums[k] = static_cast<float>(sum) * unit->scale;
  }
  const __m256i first = _mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1);
  const __m256i second = _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1);
  const __m256i third = _mm256_setr_epi32(-1, -1, -1, -1, 1, 1, 1, 1);
  // The four 6-bit digits of eight sums, as four bytes of each digit in both halves of a vector.
  const auto digits = [](__m256i sums) {
    const __m256i a = _mm256_and_si256(sums, _mm256_set1_epi32(0x3f));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi32(sums, 2), _mm256_set1_epi32(0x3f00));
    const __m256i c = _mm256_and_si256(_mm256_slli_epi32(sums, 4), _mm256_set1_epi32(0x3f0000));
    const __m256i d = _mm256_and_si256(_mm256_slli_epi32(sums, 6), _mm256_set1_epi32(0x3f000000));
    return _mm256_shuffle_epi8(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)),
                               _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  };
  for (int64_t k = 0; k < UNIT / 4; ++k) {
    const int32_t* q = whole + 4 * k;
    const __m256i one = _mm256_sign_epi32(_mm256_set1_epi32(q[0]), first);
    const __m256i two = _mm256_sign_epi32(_mm256_set1_epi32(q[1]), second);
    const __m256i three = _mm256_sign_epi32(_mm256_set1_epi32(q[2]), third), four = _mm256_set1_epi32(q[3]);
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(one, two), _mm256_add_epi32(three, _mm256_set1_epi32(MIDDLE)));
    const __m256i low = digits(_mm256_sub_epi32(sum, four)), high = digits(_mm256_add_epi32(sum, four));
    const __m256i front = _mm256_unpacklo_epi32(low, high), back = _mm256_unpackhi_epi32(low, high);
    const __m128i a = _mm256_castsi256_si128(front), b = _mm256_extracti128_si256(front, 1);
    const __m128i c = _mm256_castsi256_si128(back), d = _mm256_extracti128_si256(back, 1);
    __m128i* table = reinterpret_cast<__m128i*>(unit->tables) + 4 * k;
    table[0] = _mm_unpacklo_epi32(a, b);
    table[1] = _mm_unpackhi_epi32(a, b);
    table[2] = _mm_unpacklo_epi32(c, d);
    table[3] = _mm_unpackhi_epi32(c, d);
  }
  return true;
}

// sums[place] += gain[place] * (weight * sum of +x and -x + rest * sum of x), of inputs `first` to `last` of the unit.
inline void look_up(const Bytes* bytes, const Unit& unit, int64_t first, int64_t last, float weight, float rest,
                    const float* gain, float* sums) {
  last = (last + PIECE - 1) / PIECE * PIECE;
  float extra = 0;
  if (rest != 0)
    for (int64_t k = first / PIECE; k < last / PIECE; ++k) extra += rest * unit.sums[k];
  weight *= unit.scale;
  Bytes all[4] = {}, odd[4] = {};
  const auto add = [&](int64_t k) __attribute__((always_inline)) {
    const Bytes mask = all_bytes(15);
    const Bytes a = both(bytes[k], mask), b = both(shift_right(bytes[k], 4), mask);
    const Bytes c = both(bytes[k + 1], mask), d = both(shift_right(bytes[k + 1], 4), mask);
#pragma GCC unroll 4
    for (int digit = 0; digit < 4; ++digit) {
      const uint8_t* table = unit.tables + 128 * k + 16 * digit;
      const Bytes sum = add_bytes(add_bytes(pick(table, a), pick(table + 64, b)),
                                  add_bytes(pick(table + 128, c), pick(table + 192, d)));
      // Two bytes at a time: the even one is `all` less what the odd one added to it.
      all[digit] = add_shorts(all[digit], sum);
      odd[digit] = add_shorts(odd[digit], shift_right(sum, 8));
    }
  };
  if (last - first == UNIT) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < UNIT / 8; k += 2) add(k);
  } else {
    for (int64_t k = first / 8; k < last / 8; k += 2) add(k);
  }
  const Bytes middle = all_ints(static_cast<int32_t>((last - first) / 4) * MIDDLE);
  const auto finish = [&](const Bytes* digit, int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Bytes small = half ? high_shorts(digit[0], digit[1]) : low_shorts(digit[0], digit[1]);
      const Bytes large = half ? high_shorts(digit[2], digit[3]) : low_shorts(digit[2], digit[3]);
      const Bytes whole = subtract_ints(add_ints(pairs(small), shift_ints_left(pairs(large), 12)), middle);
      float* to = sums + at + half * (WIDTH / 4);
      store(to, load(to) + (to_floats(whole) * weight + extra) * load(gain + at + half * (WIDTH / 4)));
    }
  };
#pragma GCC unroll 4
  for (int digit = 0; digit < 4; ++digit) all[digit] = subtract_shorts(all[digit], shift_left(odd[digit], 8));
  finish(all, 0);
  finish(odd, WIDTH / 2);
}

// With codes as halves of (the highest code + the signs of the bits), what is left is this much times the sum of x.
inline float rest(const Weights& w) { return w.step * 0.5f * static_cast<float>((1 << w.bits) - 1) - w.offset; }

constexpr int64_t units_held(int64_t batch) { return std::max<int64_t>(HELD / batch, STRIP / UNIT); }

constexpr int64_t tables_scratch(int64_t outputs, int64_t batch, bool adjoint) {
  const int64_t units = batch * (adjoint ? 1 : units_held(batch));
  return units * static_cast<int64_t>(sizeof(Unit)) + 4 * batch * (outputs + TILE);
}

// The scales of NEAR rows from `i`, for each group of the columns `c` to `end`, at their places; ones if a row has one.
inline void gather_scales(const Weights& w, int64_t i, int64_t c, int64_t end, float (*gains)[NEAR]) {
  if (w.groups == 1) return std::fill(gains[0], gains[0] + NEAR, 1.0f);
  const int64_t first = c / w.group, count = (end - 1) / w.group + 1 - first, last = std::min(NEAR, w.m - i);
  const bool whole = w.scales.type == Type::f32 && count % 4 == 0;
  alignas(16) float copies[4][STRIP / PIECE] = {};
  for (int64_t at = 0; at < NEAR; at += 4) {
    const float* rows[4];
    for (int64_t k = 0; k < 4; ++k) {
      const int64_t r = at / WIDTH * WIDTH + output(at % WIDTH + k), start = (i + r) * w.groups + first;
      rows[k] = copies[k];
      if (r < last && whole) rows[k] = static_cast<const float*>(w.scales.data) + start;
      else if (r < last) w.scales.read(copies[k], start, count);
      if (whole) __builtin_prefetch(rows[k] + 16);
    }
    for (int64_t g = 0; g < count; g += 4) {
      __m128 a = _mm_loadu_ps(rows[0] + g), b = _mm_loadu_ps(rows[1] + g);
      __m128 c = _mm_loadu_ps(rows[2] + g), d = _mm_loadu_ps(rows[3] + g);
      _MM_TRANSPOSE4_PS(a, b, c, d);
      _mm_store_ps(gains[g] + at, a);
      if (g + 1 < count) _mm_store_ps(gains[g + 1] + at, b);
      if (g + 2 < count) _mm_store_ps(gains[g + 2] + at, c);
      if (g + 3 < count) _mm_store_ps(gains[g + 3] + at, d);
    }
  }
}

// The lines at column `c` of some rows, which are too far apart for the processor to expect that they will be read.
inline void fetch(const Weights& w, int64_t plane, int64_t i, int64_t count, int64_t c) {
  for (int64_t r = i; r < std::min(i + count, w.m); ++r) __builtin_prefetch(w.row(plane, r) + c / 8, 0, 2);
}

// Inputs of a unit that share a scale.
struct Segment {
  int64_t first, last;
  const float* gains;  // of NEAR rows
};

inline int64_t cut(const Weights& w, int64_t c, int64_t end, const float (*gains)[NEAR], Segment* segments) {
  const int64_t first = c / w.group, before = c / STRIP * STRIP / w.group;
  int64_t count = 0;
  for (int64_t g = first; g * w.group < end; ++g, ++count)
    segments[count] = {std::max(g * w.group, c) - c, std::min((g + 1) * w.group, end) - c, gains[g - before]};
  return count;
}

// Adds what columns `strip` to `end` give to NEAR rows from `i`, or as many as there are to `last`, for each row of x.
inline void look_up_strip(const Weights& w, int64_t i, int64_t last, int64_t strip, int64_t end, int64_t batch,
                          const Unit* units, float* sums, int64_t stride) {
  alignas(64) float gains[STRIP / PIECE][NEAR];
  gather_scales(w, i, strip, end, gains);
  const int64_t tiles = (std::min(last - i, NEAR) + WIDTH - 1) / WIDTH;
  float weight = w.step * 0.5f, rest_weight = rest(w);
  for (int64_t p = 0; p < w.bits; ++p, weight *= 2, rest_weight = 0) {
    Bytes turned[STRIP / UNIT][NEAR / WIDTH][16];
    // The lines of rows a power of two apart share few places in the cache: all of a line at once.
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t c = strip; c < end; c += UNIT)
        turn_rows(w, p, i + tile * WIDTH, c / 8, turned[(c - strip) / UNIT][tile]);
    for (int64_t c = strip; c < end; c += UNIT) {
      Segment segments[UNIT / PIECE];
      const int64_t count = cut(w, c, std::min(end, c + UNIT), gains, segments), unit = (c - strip) / UNIT;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t quarter = i + (unit * (NEAR / WIDTH) + tile) * (WIDTH / 4);
        if (p + 1 < w.bits) fetch(w, p + 1, quarter, WIDTH / 4, strip);
        else fetch(w, 0, quarter, WIDTH / 4, strip + STRIP);
        for (int64_t b = 0; b < batch; ++b)
          for (const Segment* s = segments; s < segments + count; ++s)
            look_up(turned[unit][tile], units[unit * batch + b], s->first, s->last, weight, rest_weight,
                    s->gains + tile * WIDTH, sums + b * stride + tile * WIDTH);
      }
    }
  }
}

inline bool tables_product(const Job& job, const Part& part, void* scratch) {
  const Weights& w = job.w;
  const int64_t batch = part.batch_last - part.batch_first, held = units_held(batch) * UNIT;
  const int64_t stride = round_up(part.last - part.first, WIDTH);
  Unit* units = static_cast<Unit*>(scratch);
  float* sums = reinterpret_cast<float*>(units + batch * units_held(batch));
  std::fill(sums, sums + batch * stride, 0.0f);
  alignas(64) float x[UNIT];
  for (int64_t start = 0; start < w.n; start += held) {
    const int64_t end = std::min(w.n, start + held);
    for (int64_t c = start; c < end; c += UNIT)
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t count = std::min(UNIT, end - c);
        job.x.read(x, (part.batch_first + b) * w.n + c, count);
        std::fill(x + count, x + UNIT, 0.0f);
        if (!prepare(x, units + (c - start) / UNIT * batch + b)) return false;
      }
    for (int64_t near = part.first; near < part.last; near += NEAR)
      for (int64_t strip = start; strip < end; strip += STRIP)
        look_up_strip(w, near, part.last, strip, std::min(strip + STRIP, end), batch,
                      units + (strip - start) / UNIT * batch, sums + near - part.first, stride);
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = part.first; i < part.last; i += WIDTH) {
      const int64_t count = std::min<int64_t>(WIDTH, part.last - i);
      float line[WIDTH], scales[WIDTH];
      std::fill(scales, scales + WIDTH, 1.0f);
      if (w.groups == 1) w.scales.read(scales, i, count);
      for (int64_t r = 0; r < count; ++r) line[r] = scales[r] * sums[b * stride + i - part.first + place(r)];
      job.y.write((part.batch_first + b) * w.m + i, line, count);
    }
  return true;
}

// x @ entries where each row has one scale, which is multiplied into x.
inline bool tables_adjoint(const Job& job, const Part& part, void* scratch) {
  const Weights& w = job.w;
  const int64_t batch = part.batch_last - part.batch_first;
  const int64_t stride = round_up(part.last - part.first, TILE);
  Unit* units = static_cast<Unit*>(scratch);
  float* sums = reinterpret_cast<float*>(units + batch);
  std::fill(sums, sums + batch * stride, 0.0f);
  alignas(64) float x[UNIT], ones[WIDTH];
  std::fill(ones, ones + WIDTH, 1.0f);
  for (int64_t i = 0; i < w.m; i += UNIT) {
    const int64_t count = std::min(UNIT, w.m - i);
    float scales[UNIT];
    w.scales.read(scales, i, count);
    for (int64_t b = 0; b < batch; ++b) {
      job.x.read(x, (part.batch_first + b) * w.m + i, count);
      for (int64_t k = 0; k < count; ++k) x[k] *= scales[k];
      std::fill(x + count, x + UNIT, 0.0f);
      if (!prepare(x, units + b)) return false;
    }
    for (int64_t j = part.first; j < part.last; j += TILE) {
      float weight = w.step * 0.5f, rest_weight = rest(w);
      for (int64_t p = 0; p < w.bits; ++p, weight *= 2, rest_weight = 0) {
        Bytes turned[8][UNIT / 8];
        fetch(w, p, i, count, j + STRIP);
        for (int64_t k = 0; k < (count + PIECE - 1) / PIECE * 2; ++k) {
          Bytes rows[8];
#pragma GCC unroll 8
          for (int q = 0; q < 8; ++q) rows[q] = row_bytes(w, p, i + 8 * k + q, j / 8);
          turn_bits(rows);
          for (int r = 0; r < 8; ++r) turned[r][k] = rows[r];
        }
        for (int r = 0; r < 8; ++r)
          for (int64_t b = 0; b < batch; ++b)
            look_up(turned[r], units[b], 0, count, weight, rest_weight, ones,
                    sums + b * stride + j - part.first + r * WIDTH);
      }
    }
  }
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t j = part.first; j < part.last; j += TILE) {
      const int64_t count = std::min(TILE, part.last - j);
      float line[TILE];
      for (int64_t c = 0; c < count; ++c)
        line[c] = sums[b * stride + j - part.first + c % 8 * WIDTH + place(c / 8)];
      job.y.write((part.batch_first + b) * w.n + j, line, count);
    }
  return true;
}

inline bool run_tables(const Job& job, const Part& part, void* scratch) {
  return job.adjoint ? tables_adjoint(job, part, scratch) : tables_product(job, part, scratch);
}
