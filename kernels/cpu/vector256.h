// The operations on vectors of bytes that the other files need, with AVX2: 32 bytes.

constexpr int64_t WIDTH = 32;
constexpr int LANES = 8;
typedef __m256i Bytes;
typedef float Vector __attribute__((vector_size(32)));

inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
// 16 bytes of this row and of the 16th after it.
inline Bytes every_16th_row(const uint8_t* row, int64_t stride) {
  const __m128i* a = reinterpret_cast<const __m128i*>(row);
  const __m128i* b = reinterpret_cast<const __m128i*>(row + 16 * stride);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(a)), _mm_loadu_si128(b), 1);
}
inline Bytes pick(const uint8_t* table, Bytes index) {
  const __m128i values = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), index);
}
inline Bytes all_bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
inline Bytes all_ints(int value) { return _mm256_set1_epi32(value); }
inline Bytes both(Bytes a, Bytes b) { return _mm256_and_si256(a, b); }
inline Bytes differ(Bytes a, Bytes b) { return _mm256_xor_si256(a, b); }
inline Bytes shift_left(Bytes a, int by) { return _mm256_slli_epi16(a, by); }
inline Bytes shift_right(Bytes a, int by) { return _mm256_srli_epi16(a, by); }
inline Bytes add_bytes(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
inline Bytes add_shorts(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
inline Bytes subtract_shorts(Bytes a, Bytes b) { return _mm256_sub_epi16(a, b); }
inline Bytes subtract_ints(Bytes a, Bytes b) { return _mm256_sub_epi32(a, b); }
inline Bytes low_bytes(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
inline Bytes high_bytes(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
inline Bytes low_shorts(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
inline Bytes high_shorts(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }
// The first of each two shorts and 64 times the second.
inline Bytes pairs(Bytes a) { return _mm256_madd_epi16(a, _mm256_set1_epi32(1 | 64 << 16)); }
inline Vector to_floats(Bytes a) { return _mm256_cvtepi32_ps(a); }
// The same bits.
inline Vector as_floats(Bytes a) { return _mm256_castsi256_ps(a); }
