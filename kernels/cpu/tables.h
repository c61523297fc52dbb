// Products by looking up sums of four inputs at once: one byte shuffle does it for as many outputs as a
// vector has bytes.
//
// Included once for each instruction set, inside its namespace, after unpack.h. For every four inputs there are 16
// possible sums of +x and -x. Inputs are rounded to whole multiples of 1 / 2097151 of the largest of so many, so that a
// sum fits 24 bits; these are stored as four tables of 6-bit digits, and four digits add up inside a byte. All sums are
// exact from there on, until they become floats.

constexpr int64_t PIECE = 16;   // inputs that are looked up together; a group has a whole number of them
constexpr int64_t VECTORS = 8;  // rows of x that are looked up while the weights are at hand
constexpr int64_t PLANES = 2;   // whose digits add up before they become floats: more do not fit 16 bits
constexpr float LARGEST = 2097151;  // four of them, and the 2^23 that makes sums positive, fit 24 bits
constexpr int32_t MIDDLE = 1 << 23;

// A unit of one row of x.
struct Unit {
  alignas(64) uint8_t tables[UNIT * 16];
  float scale;
  float sums[UNIT / PIECE];  // of x, by piece
  float sum;
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

// The largest size among `count` inputs, a multiple of 8; negative where tables cannot hold them: one is not finite, or
// all are so large or small that scaling them would not be exact enough.
inline float largest_size(const float* x, int64_t count) {
  // Compared as integers, sizes are in the same order and NaN comes last.
  __m256i sizes = _mm256_setzero_si256();
  for (int64_t k = 0; k < count; k += 8)
    sizes = _mm256_max_epi32(sizes, _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k)),
                                                     _mm256_set1_epi32(0x7fffffff)));
  alignas(32) float each[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(each), sizes);
  float largest = 0;
  for (float size : each) {
    if (!(size <= 0x1p100f)) return -1;
    largest = std::max(largest, size);
  }
  return largest > 0 && largest < 0x1p-80f ? -1 : largest;
}

// The tables of 128 inputs that are at most `largest` in size.
inline void prepare(const float* x, float largest, Unit* unit) {
  const float inverse = largest > 0 ? LARGEST / largest : 0;
  unit->scale = largest / LARGEST;
  alignas(64) int32_t whole[UNIT];
  for (int64_t k = 0; k < UNIT; k += 8)
    _mm256_store_si256(reinterpret_cast<__m256i*>(whole + k),
                       _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), _mm256_set1_ps(inverse))));
  unit->sum = 0;
  for (int64_t k = 0; k < UNIT / PIECE; ++k) {
    int32_t sum = 0;
    for (int64_t c = 0; c < PIECE; ++c) sum += whole[k * PIECE + c];
    unit->sums[k] = static_cast<float>(sum) * unit->scale;
    unit->sum += unit->sums[k];
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
}

// Digits of the sums of WIDTH outputs, all of them two bytes at a time and those of the odd bytes alone.
struct Digits {
  Bytes all[4], odd[4];
};

// One digit of 16 inputs. The barrier keeps the compiler from mixing the digits, for which there are not enough registers.
#define CLISONIX_DIGIT(digit)                                                                             \
  {                                                                                                       \
    const uint8_t* table = tables + 128 * k + 16 * digit;                                                 \
    Bytes sum = add_bytes(pick(table, a), pick(table + 64, b));                                           \
    sum = add_bytes(sum, add_bytes(pick(table + 128, c), pick(table + 192, d)));                          \
    all##digit = add_shorts(all##digit, sum);                                                             \
    odd##digit = add_shorts(odd##digit, shift_right(sum, 8));                                             \
    asm("" : "+x"(all##digit), "+x"(odd##digit), "+x"(a), "+x"(b), "+x"(c), "+x"(d));                     \
  }

// Adds the sums of +x and -x of inputs `first` to `last` of a unit; both are whole pieces.
inline __attribute__((always_inline)) void look_up(const Bytes* bytes, const uint8_t* tables, int64_t first,
                                                   int64_t last, Digits& sums) {
  Bytes all0 = sums.all[0], all1 = sums.all[1], all2 = sums.all[2], all3 = sums.all[3];
  Bytes odd0 = sums.odd[0], odd1 = sums.odd[1], odd2 = sums.odd[2], odd3 = sums.odd[3];
  for (int64_t k = first / 8; k < last / 8; k += 2) {
    const Bytes mask = all_bytes(15);
    Bytes a = both(bytes[k], mask), b = both(shift_right(bytes[k], 4), mask);
    Bytes c = both(bytes[k + 1], mask), d = both(shift_right(bytes[k + 1], 4), mask);
    CLISONIX_DIGIT(0)
    CLISONIX_DIGIT(1)
    CLISONIX_DIGIT(2)
    CLISONIX_DIGIT(3)
  }
  sums.all[0] = all0, sums.all[1] = all1, sums.all[2] = all2, sums.all[3] = all3;
  sums.odd[0] = odd0, sums.odd[1] = odd1, sums.odd[2] = odd2, sums.odd[3] = odd3;
}
#undef CLISONIX_DIGIT

// The next plane counts half as much.
inline void twice(Digits& sums) {
#pragma GCC unroll 4
  for (int digit = 0; digit < 4; ++digit) {
    sums.all[digit] = add_shorts(sums.all[digit], sums.all[digit]);
    sums.odd[digit] = add_shorts(sums.odd[digit], sums.odd[digit]);
  }
}

// to[place] += gain[place] * (weight * the sum that the digits make, each of `looked` times MIDDLE above + extra).
template <bool gains>
inline void finish(const Digits& sums, int64_t looked, float weight, float extra, const float* gain, float* to) {
  const Bytes middle = all_ints(static_cast<int32_t>(looked * (MIDDLE >> 12)));
  const auto half = [&](const Bytes* digit, int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k, at += WIDTH / 4) {
      const Bytes small = k ? high_shorts(digit[0], digit[1]) : low_shorts(digit[0], digit[1]);
      const Bytes large = k ? high_shorts(digit[2], digit[3]) : low_shorts(digit[2], digit[3]);
      // Apart they are exact as floats; together they may not fit 32 bits.
      const Vector sum = to_floats(subtract_ints(pairs(large), middle)) * (4096 * weight) +
                         (to_floats(pairs(small)) * weight + extra);
      store(to + at, load(to + at) + (gains ? sum * load(gain + at) : sum));
    }
  };
  Bytes even[4];
#pragma GCC unroll 4
  for (int digit = 0; digit < 4; ++digit) even[digit] = subtract_shorts(sums.all[digit], shift_left(sums.odd[digit], 8));
  half(even, 0);
  half(sums.odd, WIDTH / 2);
}

// With codes as halves of (the highest code + the signs of the bits), what is left is this much times the sum of x.
inline float rest(const Weights& w) { return w.step * 0.5f * static_cast<float>((1 << w.bits) - 1) - w.offset; }

// The lines at column `c` of some rows, which are too far apart for the processor to expect that they will be read.
inline void fetch(const Weights& w, int64_t plane, int64_t i, int64_t count, int64_t c) {
  for (int64_t r = i; r < std::min(i + count, w.m); ++r) __builtin_prefetch(w.byte(plane, r, c / 8), 0, 2);
}
