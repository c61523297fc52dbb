"""Products of blocks on a GPU, as operators of torch with gradients: block-sparse matrices, and symmetric products.

None of these has run on a GPU yet (docs/gpu.md says how they were checked), so nothing selects them by itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from clisonix.errors import ClisonixError
from clisonix.kernels.gpu import check


class BlockPlaces(NamedTuple):
    """Where the blocks of a matrix lie, by rows and by columns.

    Args:
        crow: where each row of blocks begins.
        col: the column of each block.
        begins: where each column of blocks begins in the two that follow.
        rows: the row of each block, column by column.
        place: its place in `col`.
        m: rows of the matrix.
        n: columns of the matrix.
    """

    crow: Tensor
    col: Tensor
    begins: Tensor
    rows: Tensor
    place: Tensor
    m: int
    n: int

    @staticmethod
    def of(crow: Tensor, col: Tensor, shape: tuple[int, int], size: int) -> BlockPlaces:
        """The places of blocks `(size, size)` in compressed rows; the columns are sorted here, once for all products.

        Args:
            crow: `(ceil(m / size) + 1,)`, int32 or int64.
            col: `(nnz,)`, of the same type.
            shape: `(m, n)`.
            size: 16, 32 or 64.

        Raises:
            ClisonixError: another size.
        """
        from clisonix.kernels.bsr_triton import SIZES, by_column

        if size not in SIZES:
            raise ClisonixError(f"Blocks of {size} entries a side have no kernel; give 16, 32 or 64.")
        return BlockPlaces(crow, col, *by_column(crow, col, -(-shape[1] // size)), *shape)


def block_matmul(x: Tensor, values: Tensor, places: BlockPlaces) -> Tensor:
    """`x @ A.T` for the matrix of the blocks `values (nnz, b, b)`: `(..., n)` to `(..., m)`, in Triton.

    Differentiable in `x` and `values` any number of times. The reference is `clisonix.kernels.sparse.sparse_matmul`.
    """
    check("triton", x, ("triton",))
    product: Tensor = _multiply(x, values, *places)
    return product


def block_matmul_t(x: Tensor, values: Tensor, places: BlockPlaces) -> Tensor:
    """`x @ A`: `(..., m)` to `(..., n)`, otherwise as `block_matmul`."""
    check("triton", x, ("triton",))
    product: Tensor = _multiply_t(x, values, *places)
    return product


def symmetric_product(x: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    """`alpha * x @ x.mT + beta * c` for a stack `x (b, m, k)` and a symmetric `c (b, m, m)`, in Triton.

    Only one triangle is computed. Differentiable in `x` and `c`.
    """
    check("triton", x, ("triton",))
    product: Tensor = _symmetric(x, c, alpha, beta)
    return product


@torch.library.custom_op("clisonix::block_matmul_triton", mutates_args=())
def _multiply(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    begins: Tensor,
    rows: Tensor,
    place: Tensor,
    m: int,
    n: int,
) -> Tensor:
    from clisonix.kernels import bsr_triton

    out = bsr_triton.multiply(_rows(x), values.to(x.dtype).contiguous(), crow, col, None, m)
    return out.reshape(*x.shape[:-1], m)


@torch.library.custom_op("clisonix::block_matmul_t_triton", mutates_args=())
def _multiply_t(
    x: Tensor,
    values: Tensor,
    crow: Tensor,
    col: Tensor,
    begins: Tensor,
    rows: Tensor,
    place: Tensor,
    m: int,
    n: int,
) -> Tensor:
    from clisonix.kernels import bsr_triton

    out = bsr_triton.multiply(_rows(x), values.to(x.dtype).contiguous(), begins, rows, place, n)
    return out.reshape(*x.shape[:-1], n)


@torch.library.custom_op("clisonix::block_sample_triton", mutates_args=())
def _sample(
    left: Tensor,
    right: Tensor,
    crow: Tensor,
    col: Tensor,
    begins: Tensor,
    rows: Tensor,
    place: Tensor,
    m: int,
    n: int,
    size: int,
) -> Tensor:
    from clisonix.kernels import bsr_triton

    # Back from the order of columns to that of rows.
    in_rows = torch.empty_like(rows).scatter_(0, place.long(), rows)
    return bsr_triton.sample(_rows(left), _rows(right.to(left.dtype)), in_rows, col, size)


@_multiply.register_fake
def _(x: Tensor, values: Tensor, *places: Any) -> Tensor:  # noqa: ANN401 - five tensors and two numbers
    return x.new_empty(*x.shape[:-1], places[5])


@_multiply_t.register_fake
def _(x: Tensor, values: Tensor, *places: Any) -> Tensor:  # noqa: ANN401 - five tensors and two numbers
    return x.new_empty(*x.shape[:-1], places[6])


@_sample.register_fake
def _(left: Tensor, right: Tensor, crow: Tensor, col: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - as above
    size = others[-1]
    return left.new_empty(col.shape[0], size, size)


@torch.library.custom_op("clisonix::symmetric_product_triton", mutates_args=())
def _symmetric(x: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    from clisonix.kernels import newton_schulz_triton

    out = x.new_empty(x.shape[0], x.shape[1], x.shape[1])
    newton_schulz_triton.launch(x, None if c is None else c.contiguous(), out, alpha, beta)
    return out


@_symmetric.register_fake
def _(x: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], x.shape[1])


def _rows(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()


def _save(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *places = inputs
    ctx.save_for_backward(first, second, *places[:5])
    ctx.sizes = places[5:7]  # type: ignore[attr-defined]


_Grads = tuple[Tensor | None, ...]


def _saved(ctx: FunctionCtx) -> tuple[Tensor, Tensor, tuple[Any, ...], tuple[bool, ...]]:
    first, second, *places = ctx.saved_tensors  # type: ignore[attr-defined]
    return first, second, (*places, *ctx.sizes), ctx.needs_input_grad  # type: ignore[attr-defined]


def _backward(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    x, values, places, needs = _saved(ctx)
    grad_x = _multiply_t(grad, values, *places) if needs[0] else None
    grad_values = _sample(grad, x, *places, values.shape[-1]) if needs[1] else None
    return grad_x, grad_values, *[None] * 7


def _backward_t(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    x, values, places, needs = _saved(ctx)
    grad_x = _multiply(grad, values, *places) if needs[0] else None
    grad_values = _sample(x, grad, *places, values.shape[-1]) if needs[1] else None
    return grad_x, grad_values, *[None] * 7


def _backward_sample(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    left, right, places, needs = _saved(ctx)
    grad_left = _multiply(right, grad, *places) if needs[0] else None
    grad_right = _multiply_t(left, grad, *places) if needs[1] else None
    return grad_left, grad_right, *[None] * 8


_multiply.register_autograd(_backward, setup_context=_save)
_multiply_t.register_autograd(_backward_t, setup_context=_save)
_sample.register_autograd(_backward_sample, setup_context=_save)


def _save_symmetric(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, ctx.alpha, ctx.beta = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(x)


def _backward_symmetric(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    grad_x = torch.bmm(grad + grad.mT, x) * ctx.alpha if needs[0] else None  # type: ignore[attr-defined]
    return grad_x, grad * ctx.beta if needs[1] else None, None, None  # type: ignore[attr-defined]


_symmetric.register_autograd(_backward_symmetric, setup_context=_save_symmetric)
