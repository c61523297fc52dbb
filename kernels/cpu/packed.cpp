#include "packed.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLISONIX_X86 1
#include <immintrin.h>
#endif

namespace clisonix {

namespace portable {
#include "vector_portable.h"
#include "turn.h"
#include "unpack.h"
}  // namespace portable

#ifdef CLISONIX_X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#include "vector256.h"
#include "turn.h"
#include "unpack.h"
#include "tables.h"
#include "tables_rows.h"
#include "tables_columns.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw")
namespace avx512 {
#include "vector512.h"
#include "turn.h"
#include "unpack.h"
#include "tables.h"
#include "tables_rows.h"
#include "tables_columns.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Sizes {
  int64_t width, batch, vectors;
};

Sizes sizes(Isa isa) {
#ifdef CLISONIX_X86
  if (isa == Isa::avx512) return {avx512::WIDTH, avx512::BATCH, avx512::VECTORS};
  if (isa == Isa::avx2) return {avx2::WIDTH, avx2::BATCH, avx2::VECTORS};
#endif
  return {portable::WIDTH, portable::BATCH, 1};
}

int64_t scratch_bytes(const Job& job, Isa isa, const Plan& plan) {
#ifdef CLISONIX_X86
  if (isa == Isa::avx512 && plan.tables) return avx512::tables_scratch(job, plan.outputs, plan.batch);
  if (isa == Isa::avx2 && plan.tables) return avx2::tables_scratch(job, plan.outputs, plan.batch);
  if (isa == Isa::avx512) return avx512::scratch_bytes(job, plan.outputs, plan.batch);
  if (isa == Isa::avx2) return avx2::scratch_bytes(job, plan.outputs, plan.batch);
#endif
  return portable::scratch_bytes(job, plan.outputs, plan.batch);
}

// Cycles of one core, as measured with AVX2 on Zen 3; which kernel is faster and what is worth a second thread follow
// from them. With AVX-512 both kernels do twice as much at a time.
double unpack_cycles(const Job& job) {
  const double weights = static_cast<double>(job.w.m) * static_cast<double>(job.w.n);
  const double unpack = (job.adjoint ? 0.65 : 0.45) + 0.05 * static_cast<double>(job.w.bits);
  return weights * (unpack + 0.078 * static_cast<double>(job.batch));
}

double tables_cycles(const Job& job) {
  const double batch = static_cast<double>(job.batch), bits = static_cast<double>(job.w.bits);
  const double units = static_cast<double>(divide_up(job.inputs(), 128));
  const double tiles = static_cast<double>(divide_up(job.outputs(), 32));
  return units * (800 * batch + tiles * bits * (80 + batch * (job.w.groups > 1 ? 225 : 195)));
}

}  // namespace

Isa best_isa() {
#ifdef CLISONIX_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return Isa::avx512;
    return Isa::avx2;
  }
#endif
  return Isa::portable;
}

bool can_use_tables(const Job& job, Isa isa) {
  if (isa == Isa::portable || job.left.data) return false;
  return job.w.groups == 1 || (!job.adjoint && job.w.group % 16 == 0);
}

bool tables_are_faster(const Job& job) { return tables_cycles(job) < unpack_cycles(job); }

Plan make_plan(const Job& job, Isa isa, bool tables, int64_t threads) {
  const Sizes size = sizes(isa);
  Plan plan{};
  plan.tables = tables;
  plan.threads = (tables ? tables_cycles(job) : unpack_cycles(job)) > 60000;
  plan.batch = std::min(job.batch, tables ? size.vectors : size.batch);
  const int64_t grain = job.adjoint ? 8 * size.width : size.width;
  const int64_t most = tables ? 2048 : 512;
  const int64_t rows = job.left.data ? 1 : divide_up(job.batch, plan.batch);
  // Enough parts for every thread, and a multiple of the threads where the batch alone does not decide.
  int64_t columns = divide_up(job.outputs(), most);
  if (plan.threads) columns = divide_up(std::max(columns, divide_up(threads, rows)), threads) * threads;
  plan.outputs = divide_up(divide_up(job.outputs(), columns), grain) * grain;
  plan.parts = rows * divide_up(job.outputs(), plan.outputs);
  plan.scratch = divide_up(scratch_bytes(job, isa, plan), 64) * 64;
  return plan;
}

bool run_part(const Job& job, Isa isa, const Plan& plan, int64_t index, void* scratch) {
  const int64_t columns = divide_up(job.outputs(), plan.outputs);
  Part part{};
  part.first = index % columns * plan.outputs;
  part.last = std::min(job.outputs(), part.first + plan.outputs);
  part.batch_first = job.left.data ? 0 : index / columns * plan.batch;
  part.batch_last = job.left.data ? job.batch : std::min(job.batch, part.batch_first + plan.batch);
#ifdef CLISONIX_X86
  if (isa == Isa::avx512 && plan.tables) return avx512::run_tables(job, part, scratch);
  if (isa == Isa::avx2 && plan.tables) return avx2::run_tables(job, part, scratch);
  if (isa == Isa::avx512) return avx512::run_unpack(job, part, scratch), true;
  if (isa == Isa::avx2) return avx2::run_unpack(job, part, scratch), true;
#endif
  portable::run_unpack(job, part, scratch);
  return true;
}

}  // namespace clisonix
