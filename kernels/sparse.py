"""Products with a sparse matrix, as three operators that are each other's derivatives.

Plain index and value tensors go in, because a sparse tensor can be neither saved by safetensors nor traced through
`torch.compile(fullgraph=True)`. The number of dimensions of the values tells how the matrix is stored:

- `(nnz,)`, single entries in compressed rows: `crow` says where each row begins, `col` the column of each value;
- `(nnz, br, bc)`, blocks in compressed rows of blocks; what reaches over the edge of the matrix counts for nothing;
- `(m, kept)`, two of each four entries of a row; `crow` and `col` both are the places packed as
  `clisonix.kernels.twofour` says.

Three backends compute the same: "own" (C++, on a CPU with a compiler), "torch" and "torch_sparse". See
`clisonix.kernels.sparse_backends` for how one is chosen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clisonix.kernels.sparse_backends import run_multiply, run_multiply_t, run_sample


def sparse_matmul(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int], backend: str = ""
) -> Tensor:
    """`x @ A.T` for the `(m, n)` matrix `A` with rows `crow`, columns `col` and `values`.

    Args:
        x: `(..., n)`. Half precision is summed in float32 and rounded once.
        values: `(nnz,)`, blocks `(nnz, br, bc)`, or two of four `(m, kept)`.
        crow: `(rows + 1,)`, where each row (of blocks) begins, int32 or int64; or uint8 places.
        col: `(nnz,)`, the column (of blocks) of each value, of the type of `crow`; or the places again.
        shape: `(m, n)`.
        backend: "own", "torch" or "torch_sparse"; by default the fastest.

    Returns:
        `(..., m)` in the dtype of `x`, differentiable in `x` and `values` any number of times.
    """
    if _is_turned(x):
        turned: Tensor = _multiply(x.mT, values, crow, col, *shape, True, backend)
        return turned.mT
    product: Tensor = _multiply(x, values, crow, col, *shape, False, backend)
    return product


def sparse_matmul_t(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int], backend: str = ""
) -> Tensor:
    """`x @ A`: `(..., m)` to `(..., n)`, otherwise as `sparse_matmul`."""
    if _is_turned(x):
        turned: Tensor = _multiply_t(x.mT, values, crow, col, *shape, True, backend)
        return turned.mT
    product: Tensor = _multiply_t(x, values, crow, col, *shape, False, backend)
    return product


# `turned`: the vectors are the columns of `x (n, k)` and of the result `(m, k)`, and not the rows.


_MULTIPLY = (
    "(Tensor x, Tensor values, Tensor crow, Tensor col, SymInt m, SymInt n, bool turned, str backend) -> Tensor"
)
_SAMPLE = (
    "(Tensor left, Tensor right, Tensor crow, Tensor col, SymInt[] shape, ScalarType dtype, bool turned, str backend)"
    " -> Tensor"
)


def _multiply_kernel(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    product = run_multiply(_flat(x), values, crow, col, m, n, turned, backend)
    return product if x.ndim == 2 else product.view(_product_shape(x, m, turned))


def _multiply_t_kernel(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    product = run_multiply_t(_flat(x), values, crow, col, m, n, turned, backend)
    return product if x.ndim == 2 else product.view(_product_shape(x, n, turned))


def _sample_kernel(
    left: Tensor,
    right: Tensor,
    crow: Tensor,
    col: Tensor,
    shape: list[int],
    dtype: torch.dtype,
    turned: bool,
    backend: str,
) -> Tensor:
    """The entries of `left.T @ right` at the places: `(..., m), (..., n)` to values of `shape` and `dtype`."""
    return run_sample(_flat(left), _flat(right), crow, col, shape, turned, backend).to(dtype)


def _multiply_fake(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    return x.new_empty(_product_shape(x, m, turned))


def _multiply_t_fake(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    return x.new_empty(_product_shape(x, n, turned))


def _sample_fake(
    left: Tensor,
    right: Tensor,
    crow: Tensor,
    col: Tensor,
    shape: list[int],
    dtype: torch.dtype,
    turned: bool,
    backend: str,
) -> Tensor:
    return left.new_empty(shape, dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401 - torch gives it no type
    ctx.save_for_backward(*inputs[:4])
    ctx.m, ctx.n, ctx.turned, ctx.backend = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, values, crow, col = ctx.saved_tensors
    rest = ctx.turned, ctx.backend
    grad_x = grad_values = None
    if ctx.needs_input_grad[0]:
        grad_x = _multiply_t(grad, values, crow, col, ctx.m, ctx.n, *rest)
    if ctx.needs_input_grad[1]:
        grad_values = _sample(grad, x, crow, col, list(values.shape), values.dtype, *rest)
    return grad_x, grad_values, *[None] * 6


def _backward_t(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    x, values, crow, col = ctx.saved_tensors
    rest = ctx.turned, ctx.backend
    grad_x = grad_values = None
    if ctx.needs_input_grad[0]:
        grad_x = _multiply(grad, values, crow, col, ctx.m, ctx.n, *rest)
    if ctx.needs_input_grad[1]:
        grad_values = _sample(x, grad, crow, col, list(values.shape), values.dtype, *rest)
    return grad_x, grad_values, *[None] * 6


def _save_sample(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:4])
    ctx.turned, ctx.backend = inputs[6:]


def _backward_sample(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    left, right, crow, col = ctx.saved_tensors
    entries = 0 if ctx.turned else -1
    rest = left.shape[entries], right.shape[entries], ctx.turned, ctx.backend
    grad_left = _multiply(right, grad, crow, col, *rest) if ctx.needs_input_grad[0] else None
    grad_right = _multiply_t(left, grad, crow, col, *rest) if ctx.needs_input_grad[1] else None
    return grad_left, grad_right, *[None] * 6


# Defined by hand: `torch.library.custom_op` wraps a kernel in layers that take longer than a small product.
_library = torch.library.Library("clisonix", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _schema, _kernel, _fake, _formula, _keep in (
    ("sparse_multiply", _MULTIPLY, _multiply_kernel, _multiply_fake, _backward, _save),
    ("sparse_multiply_t", _MULTIPLY, _multiply_t_kernel, _multiply_t_fake, _backward_t, _save),
    ("sparse_sample", _SAMPLE, _sample_kernel, _sample_fake, _backward_sample, _save_sample),
):
    _library.define(_name + _schema)  # type: ignore[no-untyped-call]
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"clisonix::{_name}", _fake, lib=_library)
    torch.library.register_autograd(f"clisonix::{_name}", _formula, setup_context=_keep, lib=_library)
_multiply = torch.ops.clisonix.sparse_multiply.default
_multiply_t = torch.ops.clisonix.sparse_multiply_t.default
_sample = torch.ops.clisonix.sparse_sample.default


def _is_turned(x: Tensor) -> bool:
    """Whether the vectors lie side by side in memory, as in `A @ x` for a contiguous `x (n, k)`."""
    return x.ndim == 2 and x.stride(0) == 1 and x.stride(1) != 1


def _flat(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product_shape(x: Tensor, size: int, turned: bool) -> tuple[int, ...]:
    return (size, x.shape[1]) if turned else (*x.shape[:-1], size)
