"""Products with a matrix of small integers, stored as bit planes, with one scale per group of columns.

Plane `p` holds bit `p` of every code, packed eight columns to a byte as in `clisonix.kernels.binary`, so
that every width from 1 to 8 bits takes exactly that many. The entry at row `i`, column `j` is
`scales[i, j // group] * (code[i, j] - offset)`. The product is linear in the scales and in the input, so
three operators are each other's derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import pack_bits, unpack_bits

# Rows are unpacked in blocks of about this many entries: 4 MB of float32, which stays in cache.
BLOCK_ENTRIES = 1 << 20


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack integers from 0 to `2**bits - 1`.

    Args:
        codes: `(m, n)`, uint8.
        bits: 1 to 8.

    Returns:
        uint8 `(bits, m, ceil(n / 8))`.

    Raises:
        ClisonixError: a code does not fit, or they are not uint8.
    """
    if codes.dtype != torch.uint8 or not 1 <= bits <= 8 or bool((codes.short() >> bits).any()):
        raise ClisonixError(f"{codes.dtype} codes do not fit {bits} bits; give uint8 below 2**bits, bits 1 to 8.")
    return torch.stack([pack_bits((codes >> plane) & 1) for plane in range(bits)])


def unpack_codes(planes: Tensor, n: int) -> Tensor:
    """The codes `(m, n)`, uint8, that `pack_codes` packed into `planes (bits, m, ceil(n / 8))`."""
    codes = unpack_bits(planes[0], n)
    for plane in range(1, planes.shape[0]):
        codes = codes | (unpack_bits(planes[plane], n) << plane)
    return codes


def integer_dense(planes: Tensor, scales: Tensor, n: int, group: int, offset: int) -> Tensor:
    """The entries `(m, n)` in the dtype of `scales`, differentiable in them."""
    levels = unpack_codes(planes, n).to(scales.dtype) - offset
    return levels * scales.repeat_interleave(group, dim=1)[:, :n]


def integer_matmul(x: Tensor, planes: Tensor, scales: Tensor, n: int, group: int, offset: int) -> Tensor:
    """`x @ entries.T`, unpacking one block of rows at a time.

    Args:
        x: `(..., n)`.
        planes: uint8 `(bits, m, ceil(n / 8))`, as from `pack_codes`.
        scales: `(m, ceil(n / group))`; of another dtype than `x` (autocast), they are rounded to it first.
        n: number of columns.
        group: columns that share a scale.
        offset: the code that means zero.

    Returns:
        `(..., m)`, differentiable in `x` and `scales` any number of times.
    """
    product: Tensor = _integer_matmul(x, scales, planes, n, group, offset)
    return product


def integer_matmul_t(x: Tensor, planes: Tensor, scales: Tensor, n: int, group: int, offset: int) -> Tensor:
    """`x @ entries`: `(..., m)` to `(..., n)`, otherwise as `integer_matmul`."""
    product: Tensor = _integer_matmul_t(x, scales, planes, n, group, offset)
    return product


@torch.library.custom_op("clisonix::integer_matmul", mutates_args=())
def _integer_matmul(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows, m = _rows(x), planes.shape[1]
        out = rows.new_empty(rows.shape[0], m)
        for part in _parts(m, n):
            entries = integer_dense(planes[:, part], scales[part].to(x.dtype), n, group, offset)
            out[:, part] = rows @ entries.mT
        return out.reshape(*x.shape[:-1], m)


@torch.library.custom_op("clisonix::integer_matmul_t", mutates_args=())
def _integer_matmul_t(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = _rows(x)
        # Half precision would lose a little at every block that is added.
        out = rows.new_zeros(rows.shape[0], n, dtype=torch.promote_types(x.dtype, torch.float32))
        for part in _parts(planes.shape[1], n):
            entries = integer_dense(planes[:, part], scales[part].to(x.dtype), n, group, offset)
            out += rows[:, part] @ entries
        return out.to(x.dtype).reshape(*x.shape[:-1], n)


@torch.library.custom_op("clisonix::integer_scale_sums", mutates_args=())
def _scale_sums(left: Tensor, right: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    """The derivative by the scales: `left.T @ right` times the levels, summed over each group.

    Shapes `(..., m), (..., n)` to `(m, ceil(n / group))`.
    """
    with torch.autocast(left.device.type, enabled=False):
        rows_left, rows_right, m = _rows(left), _rows(right), planes.shape[1]
        sums = rows_left.new_empty(m, -(-n // group))
        for part in _parts(m, n):
            levels = unpack_codes(planes[:, part], n).to(left.dtype) - offset
            terms = (rows_left[:, part].mT @ rows_right) * levels
            padded = torch.nn.functional.pad(terms, (0, -n % group))
            sums[part] = padded.view(padded.shape[0], sums.shape[1], group).sum(-1)
        return sums


@_integer_matmul.register_fake
def _(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], planes.shape[1])


@_integer_matmul_t.register_fake
def _(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], n)


@_scale_sums.register_fake
def _(left: Tensor, right: Tensor, planes: Tensor, n: int, group: int, offset: int) -> Tensor:
    return left.new_empty(planes.shape[1], -(-n // group))


_Inputs = tuple[Tensor, Tensor, Tensor, int, int, int]
_Grads = tuple[Tensor | None, Tensor | None, None, None, None, None]


def _save(ctx: FunctionCtx, inputs: _Inputs, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.layout = inputs[3:]  # type: ignore[attr-defined]


def _backward(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    x, scales, planes = ctx.saved_tensors  # type: ignore[attr-defined]
    needs, layout = ctx.needs_input_grad, ctx.layout  # type: ignore[attr-defined]
    grad_x = _integer_matmul_t(grad, scales, planes, *layout) if needs[0] else None
    grad_scales = _scale_sums(grad, x, planes, *layout) if needs[1] else None
    return grad_x, grad_scales, None, None, None, None


def _backward_t(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    x, scales, planes = ctx.saved_tensors  # type: ignore[attr-defined]
    needs, layout = ctx.needs_input_grad, ctx.layout  # type: ignore[attr-defined]
    grad_x = _integer_matmul(grad, scales, planes, *layout) if needs[0] else None
    grad_scales = _scale_sums(x, grad, planes, *layout) if needs[1] else None
    return grad_x, grad_scales, None, None, None, None


def _backward_sums(ctx: FunctionCtx, grad: Tensor) -> _Grads:
    left, right, planes = ctx.saved_tensors  # type: ignore[attr-defined]
    needs, layout = ctx.needs_input_grad, ctx.layout  # type: ignore[attr-defined]
    grad_left = _integer_matmul(right, grad, planes, *layout) if needs[0] else None
    grad_right = _integer_matmul_t(left, grad, planes, *layout) if needs[1] else None
    return grad_left, grad_right, None, None, None, None


_integer_matmul.register_autograd(_backward, setup_context=_save)
_integer_matmul_t.register_autograd(_backward_t, setup_context=_save)
_scale_sums.register_autograd(_backward_sums, setup_context=_save)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _parts(m: int, n: int) -> Iterator[slice]:
    step = max(1, BLOCK_ENTRIES // max(n, 1))
    for start in range(0, m, step):
        yield slice(start, min(start + step, m))
