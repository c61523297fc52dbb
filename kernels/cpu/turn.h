// Bit matrices turned, so that what belongs to several outputs comes to lie in one vector.
//
// Included once for each instruction set, inside its namespace, after its operations on vectors of WIDTH bytes.

constexpr int64_t UNIT = 128;  // columns of 16 bytes

// 16 bytes of each of WIDTH rows: vector k gets byte k of every row.
inline void turn_bytes(const uint8_t* rows, int64_t stride, Bytes* out) {
  Bytes a[16], b[16];
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) a[k] = every_16th_row(rows + k * stride, stride);
  const auto interleave = [](const Bytes* from, Bytes* to) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      to[2 * k] = low_bytes(from[k], from[k + 8]);
      to[2 * k + 1] = high_bytes(from[k], from[k + 8]);
    }
  };
  interleave(a, b);
  interleave(b, a);
  interleave(a, b);
  interleave(b, out);
}

// Eight vectors, in place: bit q of byte k of vector r changes places with bit r of byte k of vector q.
inline void turn_bits(Bytes* v) {
#pragma GCC unroll 3
  for (int level = 0; level < 3; ++level) {
    const int step = 1 << level;
    const Bytes mask = all_bytes(level == 0 ? 0x55 : level == 1 ? 0x33 : 0x0f);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      if (k & step) continue;
      const Bytes change = both(differ(shift_right(v[k], step), v[k + step]), mask);
      v[k + step] = differ(v[k + step], change);
      v[k] = differ(v[k], shift_left(change, step));
    }
  }
}

// turn_bytes of the WIDTH rows from `i` and the 16 bytes from `at` of a plane, with zeros for what does not exist.
inline void turn_rows(const Weights& w, int64_t plane, int64_t i, int64_t at, Bytes* out) {
  if (i + WIDTH <= w.m && at + 16 <= w.row_bytes) return turn_bytes(w.row(plane, i) + at, w.row_bytes, out);
  alignas(64) uint8_t copy[WIDTH * 16] = {};
  for (int64_t r = 0; r < std::min<int64_t>(WIDTH, w.m - i); ++r)
    std::memcpy(copy + r * 16, w.row(plane, i + r) + at, static_cast<size_t>(std::min<int64_t>(16, w.row_bytes - at)));
  turn_bytes(copy, 16, out);
}

// WIDTH bytes from `at` of row `i` of a plane, with zeros for what does not exist.
inline Bytes row_bytes(const Weights& w, int64_t plane, int64_t i, int64_t at) {
  if (i >= w.m) return all_bytes(0);
  if (at + WIDTH <= w.row_bytes) return load_bytes(w.row(plane, i) + at);
  alignas(64) uint8_t copy[WIDTH] = {};
  std::memcpy(copy, w.row(plane, i) + at, static_cast<size_t>(w.row_bytes - at));
  return load_bytes(copy);
}
