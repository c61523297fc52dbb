// The derivatives of the operators, as in planes.py, for real tensors on the CPU: called from Python, they take longer
// than a product with a small matrix.
#pragma once

#include <array>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

namespace clisonix {

using at::Tensor;
using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Three tensors, and the layout of the third: columns, group, step, offset.
using Operator = Tensor(const Tensor&, const Tensor&, const Tensor&, SymInt, SymInt, SymInt, SymInt);
using Numbers = std::array<SymInt, 4>;

enum Kind { MATMUL, MATMUL_T, SCALE_SUMS };

inline Tensor call(Kind kind, const Tensor& a, const Tensor& b, const Tensor& planes, const Numbers& l) {
  static const auto find = [](const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Operator>();
  };
  static const std::array<c10::TypedOperatorHandle<Operator>, 3> operators = {
      find("clisonix::packed_matmul"), find("clisonix::packed_matmul_t"), find("clisonix::packed_scale_sums")};
  return operators[kind].call(a, b, planes, l[0], l[1], l[2], l[3]);
}

// Without columns there is still one scale a row, where it is given as a vector.
inline Tensor shaped(const Tensor& sums, const Tensor& scales, const SymInt& n) {
  return n == 0 ? at::zeros_like(scales) : sums.view_symint(scales.sym_sizes());
}

template <Kind KIND>
struct Differentiable : torch::autograd::Function<Differentiable<KIND>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const Tensor& planes, SymInt n,
                        SymInt group, SymInt step, SymInt offset) {
    ctx->save_for_backward({a, b, planes});
    ctx->saved_data["layout"] = std::vector<SymInt>{n, group, step, offset};
    at::AutoDispatchBelowADInplaceOrView below;
    return call(KIND, a, b, planes, {n, group, step, offset});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &a = saved[0], &b = saved[1], &planes = saved[2], &grad = grads[0];
    const auto layout = ctx->saved_data["layout"].toSymIntVector();
    const Numbers l = {layout[0], layout[1], layout[2], layout[3]};
    variable_list result(7);
    if (ctx->needs_input_grad(0))
      result[0] = KIND == MATMUL ? call(MATMUL_T, grad, b, planes, l)
                  : KIND == MATMUL_T ? call(MATMUL, grad, b, planes, l) : call(MATMUL, b, grad, planes, l);
    if (ctx->needs_input_grad(1))
      result[1] = KIND == MATMUL ? shaped(call(SCALE_SUMS, grad, a, planes, l), b, l[0])
                  : KIND == MATMUL_T ? shaped(call(SCALE_SUMS, a, grad, planes, l), b, l[0])
                                     : call(MATMUL_T, a, grad, planes, l);
    return result;
  }
};

template <Kind KIND>
Tensor differentiable(const Tensor& a, const Tensor& b, const Tensor& planes, SymInt n, SymInt group, SymInt step,
                      SymInt offset) {
  // Silence would mean a derivative of zero.
  TORCH_CHECK_NOT_IMPLEMENTED(!a._fw_grad(0).defined() && !b._fw_grad(0).defined(),
                              "Products with packed weights have no forward-mode derivative; use backward mode.");
  if (at::GradMode::is_enabled() && (a.requires_grad() || b.requires_grad()))
    return Differentiable<KIND>::apply(a, b, planes, n, group, step, offset);
  at::AutoDispatchBelowADInplaceOrView below;
  return call(KIND, a, b, planes, {n, group, step, offset});
}

}  // namespace clisonix
