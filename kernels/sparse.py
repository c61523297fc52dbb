"""Products with a matrix in compressed sparse rows, as three operators that are each other's derivatives.

Plain index and value tensors go in, because a sparse tensor can be neither saved by safetensors nor
traced through `torch.compile(fullgraph=True)`.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def csr_matmul(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    """`x @ A.T` for the `(m, n)` matrix `A` with rows `crow`, columns `col` and `values`.

    Args:
        x: `(..., n)`.
        values: `(nnz,)`, of the dtype of `x`; half precision is computed in float32 and rounded once.
        crow: `(m + 1,)`, where each row begins; int32 or int64.
        col: `(nnz,)`, the column of each value; same type as `crow`.
        n: number of columns.

    Returns:
        `(..., m)`, differentiable in `x` and `values` any number of times.
    """
    product: Tensor = _csr_matmul(x, values, crow, col, n)
    return product


def csr_matmul_t(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    """`x @ A`: `(..., m)` to `(..., n)`, otherwise as `csr_matmul`."""
    product: Tensor = _csr_matmul_t(x, values, crow, col, n)
    return product


@torch.library.custom_op("clisonix::csr_matmul", mutates_args=())
def _csr_matmul(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = _rows(x)
        m = crow.shape[0] - 1
        if 0 in (rows.shape[0], values.shape[0]):
            return x.new_zeros(*x.shape[:-1], m)
        product = rows @ _csr(values.to(rows.dtype), crow, col, n).mT
        return product.to(x.dtype).contiguous().reshape(*x.shape[:-1], m)


@torch.library.custom_op("clisonix::csr_matmul_t", mutates_args=())
def _csr_matmul_t(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = _rows(x)
        if 0 in (rows.shape[0], values.shape[0]):
            return x.new_zeros(*x.shape[:-1], n)
        product = rows @ _csr(values.to(rows.dtype), crow, col, n)
        return product.to(x.dtype).contiguous().reshape(*x.shape[:-1], n)


@torch.library.custom_op("clisonix::csr_sample", mutates_args=())
def _csr_sample(left: Tensor, right: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """The entries of `left.T @ right` at the places of the matrix: `(..., m), (..., n)` to `(nnz,)`."""
    with torch.autocast(left.device.type, enabled=False):
        rows_left, rows_right = _rows(left), _rows(right)
        places = rows_left.new_zeros(col.shape[0])
        if 0 in (rows_left.shape[0], col.shape[0]):
            return places.to(left.dtype)
        pattern = _csr(places, crow, col, right.shape[-1])
        sampled: Tensor = torch.sparse.sampled_addmm(pattern, rows_left.mT, rows_right).values()
        return sampled.to(left.dtype)


@_csr_matmul.register_fake
def _(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], crow.shape[0] - 1)


@_csr_matmul_t.register_fake
def _(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], n)


@_csr_sample.register_fake
def _(left: Tensor, right: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    return left.new_empty(col.shape[0])


def _save(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    *tensors, ctx.n = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors)


def _backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    x, values, crow, col = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    grad_x = _csr_matmul_t(grad, values, crow, col, ctx.n) if needs[0] else None  # type: ignore[attr-defined]
    grad_values = _csr_sample(grad, x, crow, col) if needs[1] else None
    return grad_x, grad_values, None, None, None


def _backward_t(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    x, values, crow, col = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    grad_x = _csr_matmul(grad, values, crow, col, ctx.n) if needs[0] else None  # type: ignore[attr-defined]
    grad_values = _csr_sample(x, grad, crow, col) if needs[1] else None
    return grad_x, grad_values, None, None, None


def _save_sample(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_sample(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    left, right, crow, col = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    n = right.shape[-1]
    grad_left = _csr_matmul(right, grad, crow, col, n) if needs[0] else None
    grad_right = _csr_matmul_t(left, grad, crow, col, n) if needs[1] else None
    return grad_left, grad_right, None, None


_csr_matmul.register_autograd(_backward, setup_context=_save)
_csr_matmul_t.register_autograd(_backward_t, setup_context=_save)
_csr_sample.register_autograd(_backward_sample, setup_context=_save_sample)


def _rows(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(wide)


def _csr(values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    _hear_beta_warning_once()
    return torch.sparse_csr_tensor(crow, col, values, size=(crow.shape[0] - 1, n), check_invariants=False)


@cache
def _hear_beta_warning_once() -> None:
    """torch warns, once a process, that its CSR layout is in beta; the layout never leaves this file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()
