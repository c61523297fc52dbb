// The operations on vectors of bytes that the other files need, with AVX-512 (F and BW): 64 bytes.

constexpr int64_t WIDTH = 64;
constexpr int LANES = 16;
typedef __m512i Bytes;
typedef float Vector __attribute__((vector_size(64)));

inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
// 16 bytes of this row and of the 16th, 32nd and 48th after it.
inline Bytes every_16th_row(const uint8_t* row, int64_t stride) {
  const auto part = [&](int64_t k) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + k * 16 * stride)); };
  Bytes four = _mm512_castsi128_si512(part(0));
  four = _mm512_inserti32x4(four, part(1), 1);
  four = _mm512_inserti32x4(four, part(2), 2);
  return _mm512_inserti32x4(four, part(3), 3);
}
inline Bytes pick(const uint8_t* table, Bytes index) {
  const __m128i values = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), index);
}
inline Bytes all_bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
inline Bytes all_ints(int value) { return _mm512_set1_epi32(value); }
inline Bytes both(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
inline Bytes differ(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
inline Bytes shift_left(Bytes a, int by) { return _mm512_slli_epi16(a, by); }
inline Bytes shift_right(Bytes a, int by) { return _mm512_srli_epi16(a, by); }
inline Bytes add_bytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
inline Bytes add_shorts(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
inline Bytes subtract_shorts(Bytes a, Bytes b) { return _mm512_sub_epi16(a, b); }
inline Bytes subtract_ints(Bytes a, Bytes b) { return _mm512_sub_epi32(a, b); }
inline Bytes low_bytes(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
inline Bytes high_bytes(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
inline Bytes low_shorts(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
inline Bytes high_shorts(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }
// The first of each two shorts and 64 times the second.
inline Bytes pairs(Bytes a) { return _mm512_madd_epi16(a, _mm512_set1_epi32(1 | 64 << 16)); }
inline Vector to_floats(Bytes a) { return _mm512_cvtepi32_ps(a); }
// The same bits.
inline Vector as_floats(Bytes a) { return _mm512_castsi512_ps(a); }
