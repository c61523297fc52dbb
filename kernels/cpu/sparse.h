// What the kernels for sparse matrices are given: plain pointers and sizes.
//
// A dense operand holds k vectors. They lie "across" when entry r of all vectors is together (at r * ld + c), and
// "along" when each vector is together (at c * ld + r).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLISONIX_X86 1
#include <immintrin.h>
#endif

// Loops over the vectors that are held in registers; -O2 alone would keep them in memory.
#define UNROLL _Pragma("GCC unroll 8")

namespace clisonix {

using i64 = std::int64_t;

enum Operation : i64 { MULTIPLY, MULTIPLY_T, SAMPLE };
enum ValueType : i64 { FLOAT, DOUBLE, HALF, BFLOAT };

struct SparseCall {
  i64 operation, values_type, dense_type, wide_index, threads;
  i64 m, n, br, bc, down, right, k;  // blocks (br, bc); `down` and `right` are the strides within one
  const void *crow, *col, *values, *x, *y;
  void* out;
  i64 x_ld, y_ld, out_ld, x_across, y_across, out_across;
};

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

template <class T>
struct Dense {
  T* at;
  i64 ld;
  bool across;
};

template <class T>
Dense<const T> operand(const void* at, i64 ld, i64 across) {
  return {static_cast<const T*>(at), ld, across != 0};
}

// Calls `work(part, thread)` for all parts.
template <class F>
void each(i64 parts, int threads, const F& work) {
#ifdef _OPENMP
  if (threads > 1 && parts > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (i64 part = 0; part < parts; ++part) work(part, omp_get_thread_num());
    return;
  }
#endif
  (void)threads;
  for (i64 part = 0; part < parts; ++part) work(part, 0);
}

inline bool has_avx2() {
#ifdef CLISONIX_X86
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

}  // namespace clisonix
