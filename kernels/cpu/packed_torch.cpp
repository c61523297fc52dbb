// The kernels as operators of torch. The operators, their derivatives and the reference that takes over for what is
// not computed here are defined in planes.py.
#include <atomic>
#include <string>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "packed.h"
#include "packed_autograd.h"

namespace {

using at::Tensor;
using clisonix::Floats;
using clisonix::Isa;
using clisonix::Job;
using clisonix::Plan;
using clisonix::Type;

enum class Method { automatic, unpack, tables, library };

bool is_supported(at::ScalarType type) { return type == at::kFloat || type == at::kHalf || type == at::kBFloat16; }

Floats floats(const Tensor& t) {
  const at::ScalarType type = t.scalar_type();
  return {t.data_ptr(), type == at::kFloat ? Type::f32 : type == at::kHalf ? Type::f16 : Type::bf16};
}

// Whether all of it was computed.
bool run(const Job& job, Isa isa, bool tables) {
  const Plan plan = clisonix::make_plan(job, isa, tables, at::get_num_threads());
  const int64_t threads = plan.threads ? at::get_num_threads() : 1;
  const Tensor scratch = at::empty({threads * plan.scratch + 64}, at::TensorOptions(at::kByte));
  char* start = static_cast<char*>(scratch.data_ptr());
  start += -reinterpret_cast<intptr_t>(start) & 63;
  std::atomic<bool> complete{true};
  std::atomic<int64_t> next{0};
  // Each thread takes the next part when it is done with one: others may use the same cores.
  const auto some = [&](int64_t, int64_t) {
    char* own = start + (plan.threads ? at::get_thread_num() : 0) * plan.scratch;
    for (int64_t k; complete.load(std::memory_order_relaxed) && (k = next.fetch_add(1)) < plan.parts;)
      if (!clisonix::run_part(job, isa, plan, k, own)) complete.store(false, std::memory_order_relaxed);
  };
  if (plan.threads) at::parallel_for(0, threads, 1, some);
  else some(0, 1);
  return complete.load();
}

// The product of torch itself, with some rows of the matrix at a time.
void run_library(const Job& job, Isa isa, int64_t rows, const Tensor& x, const Tensor& y) {
  at::AutoDispatchBelowADInplaceOrView below;
  const int64_t width = clisonix::unpack_width(isa), m = job.w.m, n = job.w.n;
  const Tensor copy = at::empty({n, rows}, x.options()), left = x.view({job.batch, n}), all = y.view({job.batch, m});
  float* to = copy.mutable_data_ptr<float>();
  for (int64_t first = 0; first < m; first += rows) {
    const int64_t count = std::min(rows, m - first);
    at::parallel_for(0, (count + width - 1) / width, 1, [&](int64_t from, int64_t end) {
      for (int64_t k = from * width; k < end * width; k += width) clisonix::unpack(job, isa, first + k, rows, to + k);
    });
    Tensor part = all.narrow(1, first, count);
    at::mm_out(part, left, copy.narrow(1, 0, count));
  }
}

struct Layout {
  int64_t n, group, step, offset;
};

Job job_of(const Tensor& planes, const Tensor& scales, const Layout& layout) {
  Job job{};
  job.w.planes = planes.const_data_ptr<uint8_t>();
  job.w.tiled = planes.dim() == 4;
  job.w.bits = planes.dim() == 2 ? 1 : planes.size(0);
  job.w.m = job.w.tiled ? planes.size(1) * planes.size(3) : planes.size(-2);
  job.w.n = layout.n;
  job.w.row_bytes = planes.size(job.w.tiled ? 2 : -1);
  job.w.group = layout.group;
  job.w.groups = (layout.n + layout.group - 1) / layout.group;
  job.w.step = static_cast<float>(layout.step);
  job.w.offset = static_cast<float>(layout.offset);
  if (scales.defined()) job.w.scales = floats(scales);
  return job;
}

// A wrong size would read outside of the tensors; torch.ops can be called by anyone.
void check(const Tensor& planes, const Layout& layout) {
  const int64_t dim = planes.dim();
  TORCH_CHECK(planes.scalar_type() == at::kByte && 2 <= dim && dim <= 4 && layout.n >= 0 && layout.group >= 1 &&
                  planes.size(dim == 4 ? 2 : -1) == (layout.n + 7) / 8 &&
                  (dim == 2 || (1 <= planes.size(0) && planes.size(0) <= 8)) &&
                  (dim != 4 || planes.size(3) == clisonix::ROWS_OF_TILE),
              "planes of shape ", planes.sizes(), " do not hold ", layout.n, " columns.");
}

void check_scales(const Tensor& scales, const Job& job) {
  // One scale per row stands even where there are no columns, and so no groups.
  const bool per_row = scales.dim() == 1 && scales.numel() == job.w.m;
  TORCH_CHECK(scales.numel() == job.w.m * job.w.groups || (per_row && job.w.groups == 0), "scales of shape ", scales.sizes(), " do not fit ", job.w.m,
              " rows in ", job.w.groups, " groups of columns.");
}

Tensor multiply(const Tensor& x, const Tensor& scales, const Tensor& planes, const Layout& layout, bool adjoint,
                Isa isa, Method method) {
  check(planes, layout);
  const Tensor rows = x.contiguous(), whole_scales = scales.contiguous(), whole_planes = planes.contiguous();
  Job job = job_of(whole_planes, whole_scales, layout);
  check_scales(scales, job);
  job.adjoint = adjoint;
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == job.inputs(), "x of shape ", x.sizes(), " must end in ", job.inputs(), ".");
  at::DimVector shape(x.sizes().begin(), x.sizes().end());
  shape.back() = job.outputs();
  const Tensor y = at::empty(shape, x.options());
  if (y.numel() == 0) return y;
  if (job.inputs() == 0) return y.zero_();
  job.batch = y.numel() / job.outputs();
  job.x = floats(rows);
  job.y = floats(y);
  const bool automatic = method == Method::automatic;
  const bool tables = (automatic || method == Method::tables) && clisonix::can_use_tables(job, isa) &&
                      (!automatic || clisonix::tables_are_faster(job));
  int64_t rows_at_once = automatic && !tables ? clisonix::rows_at_once(job, isa) : 0;
  if (method == Method::library && !adjoint && job.x.type == Type::f32) rows_at_once = 2 * clisonix::unpack_width(isa);
  if (rows_at_once > 0) return run_library(job, isa, rows_at_once, rows, y), y;
  if (!(tables && run(job, isa, true))) run(job, isa, false);
  return y;
}

Tensor sum_scales(const Tensor& left, const Tensor& right, const Tensor& planes, const Layout& layout, Isa isa) {
  check(planes, layout);
  const Tensor rows = right.contiguous(), whole_left = left.contiguous(), whole_planes = planes.contiguous();
  Job job = job_of(whole_planes, Tensor(), layout);
  TORCH_CHECK(left.dim() > 0 && right.dim() > 0 && left.size(-1) == job.w.m && right.size(-1) == job.w.n,
              "left of shape ", left.sizes(), " and right of shape ", right.sizes(), " must end in ", job.w.m, " and ",
              job.w.n, ".");
  const Tensor y = at::empty({job.w.m, job.w.groups}, left.options().dtype(at::kFloat));
  if (y.numel() == 0) return y;
  job.batch = left.numel() / job.w.m;
  TORCH_CHECK(job.batch == right.numel() / job.w.n, "left and right must have equal batches.");
  job.x = floats(rows);
  job.left = floats(whole_left);
  job.y = floats(y);
  run(job, isa, false);
  return y;
}

bool is_known(const Tensor& a, const Tensor& b) { return is_supported(a.scalar_type()) && is_supported(b.scalar_type()); }

// The operator of the same meaning in plain torch, for types that are not computed here.
Tensor reference(const char* name, const Tensor& a, const Tensor& b, const Tensor& planes, const Layout& l) {
  const auto found = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<clisonix::Operator>();
  return found.call(a, b, planes, l.n, l.group, l.step, l.offset);
}

Tensor packed_matmul(const Tensor& x, const Tensor& scales, const Tensor& planes, int64_t n, int64_t group,
                     int64_t step, int64_t offset) {
  const Layout layout{n, group, step, offset};
  if (!is_known(x, scales)) return reference("clisonix::packed_matmul_reference", x, scales, planes, layout);
  return multiply(x, scales, planes, layout, false, clisonix::best_isa(), Method::automatic);
}

Tensor packed_matmul_t(const Tensor& x, const Tensor& scales, const Tensor& planes, int64_t n, int64_t group,
                       int64_t step, int64_t offset) {
  const Layout layout{n, group, step, offset};
  if (!is_known(x, scales)) return reference("clisonix::packed_matmul_t_reference", x, scales, planes, layout);
  return multiply(x, scales, planes, layout, true, clisonix::best_isa(), Method::automatic);
}

Tensor packed_scale_sums(const Tensor& left, const Tensor& right, const Tensor& planes, int64_t n, int64_t group,
                         int64_t step, int64_t offset) {
  const Layout layout{n, group, step, offset};
  if (!is_known(left, right)) return reference("clisonix::packed_scale_sums_reference", left, right, planes, layout);
  return sum_scales(left, right, planes, layout, clisonix::best_isa());
}

constexpr std::array<const char*, 3> ISAS = {"portable", "avx2", "avx512"};
constexpr std::array<const char*, 4> METHODS = {"automatic", "unpack", "tables", "library"};

template <size_t COUNT>
int64_t position(const std::array<const char*, COUNT>& names, c10::string_view name) {
  for (size_t k = 0; k < names.size(); ++k)
    if (name == names[k]) return static_cast<int64_t>(k);
  TORCH_CHECK(false, "unknown name ", name);
}

Isa isa_of(c10::string_view name) {
  const Isa isa = static_cast<Isa>(position(ISAS, name));
  TORCH_CHECK(isa <= clisonix::best_isa(), "this processor does not have ", name);
  return isa;
}

// The same with the instruction set and the method chosen by the caller, to test and measure each.
Tensor cpu_matmul(const Tensor& x, const Tensor& scales, const Tensor& planes, int64_t n, int64_t group, int64_t step,
                  int64_t offset, bool adjoint, c10::string_view isa, c10::string_view method) {
  TORCH_CHECK(is_known(x, scales), "x and scales must be float32, float16 or bfloat16");
  return multiply(x, scales, planes, {n, group, step, offset}, adjoint, isa_of(isa),
                  static_cast<Method>(position(METHODS, method)));
}

Tensor cpu_scale_sums(const Tensor& left, const Tensor& right, const Tensor& planes, int64_t n, int64_t group,
                      int64_t step, int64_t offset, c10::string_view isa) {
  TORCH_CHECK(is_known(left, right), "left and right must be float32, float16 or bfloat16");
  return sum_scales(left, right, planes, {n, group, step, offset}, isa_of(isa));
}

std::string cpu_isa() { return ISAS[static_cast<size_t>(clisonix::best_isa())]; }

}  // namespace

TORCH_LIBRARY_FRAGMENT(clisonix, m) {
  m.def("cpu_matmul(Tensor x, Tensor scales, Tensor planes, int n, int group, int step, int offset, bool adjoint, "
        "str isa, str method) -> Tensor");
  m.def("cpu_scale_sums(Tensor left, Tensor right, Tensor planes, int n, int group, int step, int offset, str isa) "
        "-> Tensor");
  m.def("cpu_isa() -> str", cpu_isa);
}

TORCH_LIBRARY_IMPL(clisonix, CPU, m) {
  m.impl("packed_matmul", packed_matmul);
  m.impl("packed_matmul_t", packed_matmul_t);
  m.impl("packed_scale_sums", packed_scale_sums);
  m.impl("cpu_matmul", cpu_matmul);
  m.impl("cpu_scale_sums", cpu_scale_sums);
}

TORCH_LIBRARY_IMPL(clisonix, AutogradCPU, m) {
  m.impl("packed_matmul", clisonix::differentiable<clisonix::MATMUL>);
  m.impl("packed_matmul_t", clisonix::differentiable<clisonix::MATMUL_T>);
  m.impl("packed_scale_sums", clisonix::differentiable<clisonix::SCALE_SUMS>);
}
