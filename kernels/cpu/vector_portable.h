// The operations on vectors of bytes that turn.h and unpack.h need, in the vector language of the compiler: 16 bytes.

constexpr int64_t WIDTH = 16;
constexpr int LANES = 4;
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Shorts __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef float Vector __attribute__((vector_size(16)));

inline Bytes load_bytes(const uint8_t* p) {
  Bytes a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
inline Bytes every_16th_row(const uint8_t* row, int64_t) { return load_bytes(row); }
inline Bytes all_bytes(int value) { return Bytes{} + static_cast<uint8_t>(value); }
inline Bytes both(Bytes a, Bytes b) { return a & b; }
inline Bytes differ(Bytes a, Bytes b) { return a ^ b; }
inline Bytes shift_left(Bytes a, int by) { return (Bytes)((Shorts)a << by); }
inline Bytes shift_right(Bytes a, int by) { return (Bytes)((Shorts)a >> by); }
inline Bytes low_bytes(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Bytes high_bytes(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline Bytes all_ints(int value) { return (Bytes)(Ints{} + value); }
inline Bytes low_shorts(Bytes a, Bytes b) { return (Bytes)__builtin_shufflevector((Shorts)a, (Shorts)b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Bytes high_shorts(Bytes a, Bytes b) { return (Bytes)__builtin_shufflevector((Shorts)a, (Shorts)b, 4, 12, 5, 13, 6, 14, 7, 15); }
// The same bits.
inline Vector as_floats(Bytes a) { return (Vector)a; }
