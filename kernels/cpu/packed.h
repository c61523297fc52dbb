// What the kernels for packed weights are given: plain pointers and sizes.
//
// Entry (i, j) of a matrix is scales[i, j / group] * (step * code[i, j] - offset), and bit p of a code is bit
// j % 8 of byte j / 8 of row i of plane p. Bits past the last column are never used. In memory either the bytes of a row
// lie together, or planes are tiled: byte k of each row of a tile, then the next byte. Looking up sums takes tiles as they
// are; other rows are turned first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace clisonix {

enum class Type { f32, f16, bf16 };

template <class T>
inline void widen(float* to, const void* from, int64_t start, int64_t count) {
  const T* values = static_cast<const T*>(from) + start;
  for (int64_t k = 0; k < count; ++k) to[k] = static_cast<float>(values[k]);
}

template <class T>
inline void narrow(void* to, int64_t start, const float* from, int64_t count) {
  T* values = static_cast<T*>(to) + start;
  for (int64_t k = 0; k < count; ++k) values[k] = static_cast<T>(from[k]);
}

// A contiguous array of one of three types, read and written as float.
struct Floats {
  void* data;
  Type type;

  void read(float* to, int64_t start, int64_t count) const {
    if (type == Type::f32) widen<float>(to, data, start, count);
    if (type == Type::f16) widen<c10::Half>(to, data, start, count);
    if (type == Type::bf16) widen<c10::BFloat16>(to, data, start, count);
  }
  void write(int64_t start, const float* from, int64_t count) const {
    if (type == Type::f32) narrow<float>(data, start, from, count);
    if (type == Type::f16) narrow<c10::Half>(data, start, from, count);
    if (type == Type::bf16) narrow<c10::BFloat16>(data, start, from, count);
  }
  float at(int64_t index) const {
    float value = 0;
    read(&value, index, 1);
    return value;
  }
};

constexpr int64_t ROWS_OF_TILE = 32;

struct Weights {
  const uint8_t* planes;  // (bits, m, row_bytes), or (bits, m / ROWS_OF_TILE, row_bytes, ROWS_OF_TILE)
  bool tiled;
  int64_t bits, m, n, row_bytes;
  Floats scales;  // (m, groups)
  int64_t group, groups;
  float step, offset;

  const uint8_t* byte(int64_t plane, int64_t i, int64_t at) const {
    const uint8_t* start = planes + plane * m * row_bytes;
    if (!tiled) return start + i * row_bytes + at;
    return start + i / ROWS_OF_TILE * ROWS_OF_TILE * row_bytes + at * ROWS_OF_TILE + i % ROWS_OF_TILE;
  }
};

// adjoint: y (batch, n) = x (batch, m) @ entries; otherwise y (batch, m) = x (batch, n) @ entries.T.
// `left` set: y (m, groups) = the gradient by the scales, for gradients left (batch, m) of that product.
struct Job {
  Weights w;
  bool adjoint;
  int64_t batch;
  Floats x, y, left;

  int64_t inputs() const { return adjoint ? w.m : w.n; }
  int64_t outputs() const { return adjoint ? w.n : w.m; }
};

// One rectangle of the result: these outputs for these rows of the batch.
struct Part {
  int64_t first, last, batch_first, batch_last;
};

// How a job is cut, and by which of the two kernels its parts are computed.
struct Plan {
  bool tables;
  int64_t outputs, batch;  // of a part
  int64_t parts;
  int64_t scratch;  // bytes that a part needs while it runs
  bool threads;     // worth more than one
};

enum class Isa { portable, avx2, avx512 };

// The best that this processor has.
Isa best_isa();
bool can_use_tables(const Job& job, Isa isa);
bool tables_are_faster(const Job& job);
Plan make_plan(const Job& job, Isa isa, bool tables, int64_t threads);
// Whether it could; a part whose x has entries that tables cannot hold must be computed without them.
bool run_part(const Job& job, Isa isa, const Plan& plan, int64_t index, void* scratch);


// For many rows the entries are unpacked once, this many rows of the matrix at a time, for a library to multiply: 0
// where that would not be faster, or take too much memory.
int64_t rows_at_once(const Job& job, Isa isa);
// How many rows `unpack` writes at once.
int64_t unpack_width(Isa isa);
// The rows of the matrix from `i`, as to[column * stride + row]; there must be room for `unpack_width` rows.
void unpack(const Job& job, Isa isa, int64_t i, int64_t stride, float* to);

}  // namespace clisonix
