// Sparse matrices in compressed rows times dense vectors, for the instruction set of the machine it runs on.
#include "sparse.h"

// Vectors wider than the machine's registers never leave this file.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace clisonix {
namespace {

namespace sparse_portable {
constexpr int MOST_VECTORS = 2;
#include "sparse_vectors.h"
#include "sparse_products.h"
#include "sparse_rows.h"
}  // namespace sparse_portable

#ifdef CLISONIX_X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
// The compiler reads the whole file before it looks at the target, so it does not define __AVX2__.
#define CLISONIX_AVX2 1
namespace sparse_avx2 {
constexpr int MOST_VECTORS = 8;
#include "sparse_vectors.h"
#include "sparse_products.h"
#include "sparse_rows.h"
}  // namespace sparse_avx2
#undef CLISONIX_AVX2
#pragma GCC pop_options
#endif

}  // namespace
}  // namespace clisonix

// Returns 0, or 1 where the types do not go together. `portable` leaves the best instruction set unused, for tests.
extern "C" int clisonix_sparse(const clisonix::SparseCall* call, int portable) {
#ifdef CLISONIX_X86
  if (!portable && clisonix::has_avx2()) return !clisonix::sparse_avx2::run(*call);
#endif
  (void)portable;
  return !clisonix::sparse_portable::run(*call);
}
