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
  const double unpack = (job.adjoint ? 0.55 : 0.35) + 0.04 * static_cast<double>(job.w.bits);
  return weights * (unpack + 0.075 * static_cast<double>(job.batch));
}

double tables_cycles(const Job& job) {
  const double batch = static_cast<double>(job.batch), bits = static_cast<double>(job.w.bits);
  const double units = static_cast<double>(divide_up(job.inputs(), 128));
  const double tiles = static_cast<double>(divide_up(job.outputs(), 32));
  return units * (800 * batch + tiles * bits * (80 + batch * (job.w.groups > 1 ? 225 : 195)));
}

// Rows of x that share what is unpacked: the more, the less it costs, but sums for all of them are held meanwhile. Those
// take at most this part of what the product holds in any case.
constexpr int64_t MANY = 384, SHARE = 6;

// Where one unpacking does not serve all rows of x, a library for dense products gains more than unpacking for it takes.
// What is unpacked is at most this part of what the product holds in any case, and no larger than a cache.
constexpr int64_t PART_OF_HELD = 4, LARGEST_COPY = 1 << 22;

int64_t evenly(int64_t count, int64_t most) { return divide_up(count, std::max<int64_t>(1, divide_up(count, most))); }

int64_t size_of(const Floats& f) { return f.type == Type::f32 ? 4 : 2; }

int64_t held(const Job& job) {
  const int64_t inputs = job.batch * job.inputs() * size_of(job.x), outputs = job.batch * job.outputs() * size_of(job.y);
  return inputs + outputs + job.w.bits * job.w.m * job.w.row_bytes;
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
  int64_t most = tables ? 2048 : 512;
  if (!tables && !job.left.data && job.batch > size.batch) {
    most = std::max<int64_t>(192, grain);
    plan.outputs = std::min(most, divide_up(job.outputs(), grain) * grain);
    for (int64_t rows = MANY; rows >= size.batch; rows /= 2) {
      plan.batch = evenly(job.batch, rows);
      if (SHARE * (plan.threads ? threads : 1) * scratch_bytes(job, isa, plan) <= held(job)) break;
    }
  }
  const int64_t rows = job.left.data ? 1 : divide_up(job.batch, plan.batch);
  // Enough parts for every thread, and a multiple of the threads where the batch alone does not decide.
  int64_t columns = divide_up(job.outputs(), most);
  if (plan.threads) columns = divide_up(std::max(columns, divide_up(threads, rows)), threads) * threads;
  plan.outputs = divide_up(divide_up(job.outputs(), columns), grain) * grain;
  plan.parts = rows * divide_up(job.outputs(), plan.outputs);
  plan.scratch = divide_up(scratch_bytes(job, isa, plan), 64) * 64;
  return plan;
}

int64_t rows_at_once(const Job& job, Isa isa) {
  if (job.adjoint || job.left.data || job.x.type != Type::f32 || job.batch <= MANY) return 0;
  const int64_t width = sizes(isa).width, fit = held(job) / PART_OF_HELD / (4 * job.w.n) / width * width;
  const int64_t rows = std::min({fit, LARGEST_COPY / (4 * job.w.n) / width * width, divide_up(job.w.m, width) * width});
  // A narrow product takes longer than it saves.
  if (rows < std::min<int64_t>(256, job.w.m)) return 0;
  return divide_up(evenly(job.w.m, rows), width) * width;
}

int64_t unpack_width(Isa isa) { return sizes(isa).width; }

void unpack(const Job& job, Isa isa, int64_t i, int64_t stride, float* to) {
#ifdef CLISONIX_X86
  if (isa == Isa::avx512) return avx512::unpack_turned(job.w, i, stride, to);
  if (isa == Isa::avx2) return avx2::unpack_turned(job.w, i, stride, to);
#endif
  portable::unpack_turned(job.w, i, stride, to);
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
