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

// The bytes `at` to `at` + 16 of WIDTH rows from `i` of a plane, one vector of each, with zeros for what does not exist.
inline void turn_rows(const Weights& w, int64_t plane, int64_t i, int64_t at, Bytes* out) {
  const bool whole = i + WIDTH <= w.m && at + 16 <= w.row_bytes;
  if (whole && !w.tiled) return turn_bytes(w.byte(plane, i, at), w.row_bytes, out);
  const int64_t rows = std::min<int64_t>(WIDTH, w.m - i), bytes = std::min<int64_t>(16, w.row_bytes - at);
  alignas(64) uint8_t copy[WIDTH * 16] = {};
  if (!w.tiled) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(copy + r * 16, w.byte(plane, i + r, at), static_cast<size_t>(bytes));
    return turn_bytes(copy, 16, out);
  }
  constexpr int64_t PART = WIDTH < ROWS_OF_TILE ? WIDTH : ROWS_OF_TILE;
  for (int64_t r = 0; r < rows; r += PART) {
    const uint8_t* from = w.byte(plane, i + r, at);
    for (int64_t k = 0; k < bytes; ++k) std::memcpy(copy + k * WIDTH + r, from + k * ROWS_OF_TILE, PART);
  }
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) out[k] = load_bytes(copy + k * WIDTH);
}

// The same for what needs no turn and no zeros, where it is; null otherwise.
inline const Bytes* as_they_lie(const Weights& w, int64_t plane, int64_t i, int64_t at) {
  if (WIDTH != ROWS_OF_TILE || !w.tiled || at + 16 > w.row_bytes) return nullptr;
  const uint8_t* from = w.byte(plane, i, at);
  return reinterpret_cast<uintptr_t>(from) % WIDTH ? nullptr : reinterpret_cast<const Bytes*>(from);
}

// WIDTH bytes from `at` of each of 16 rows from `i`, a multiple of 16, of a plane, with zeros for what does not exist.
inline void sixteen_rows(const Weights& w, int64_t plane, int64_t i, int64_t at, Bytes* out) {
  const bool whole = i + 16 <= w.m && at + WIDTH <= w.row_bytes;
  // With rows and bytes exchanged it is the same turn.
  if (whole && w.tiled) return turn_bytes(w.byte(plane, i, at), ROWS_OF_TILE, out);
  const int64_t rows = std::min<int64_t>(16, w.m - i), bytes = std::min<int64_t>(WIDTH, w.row_bytes - at);
  alignas(64) uint8_t copy[WIDTH * 16] = {};
  if (w.tiled) {
    for (int64_t k = 0; k < bytes; ++k) std::memcpy(copy + k * 16, w.byte(plane, i, at + k), static_cast<size_t>(rows));
    return turn_bytes(copy, 16, out);
  }
  if (!whole)
    for (int64_t r = 0; r < rows; ++r) std::memcpy(copy + r * WIDTH, w.byte(plane, i + r, at), static_cast<size_t>(bytes));
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) out[r] = load_bytes(whole ? w.byte(plane, i + r, at) : copy + r * WIDTH);
}
