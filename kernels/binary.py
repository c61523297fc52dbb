"""Products with a matrix of signs, packed eight to a byte.

Bit `j` of byte `i` of a row is column `8·i + j`; a set bit is +1, a clear one -1. The bits past the last
column are clear and never read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from clisonix.errors import ClisonixError

# Rows are unpacked in blocks of about this many entries: 4 MB of float32, which stays in cache.
BLOCK_ENTRIES = 1 << 20


def pack_signs(signs: Tensor) -> Tensor:
    """Pack a matrix of ±1, or of booleans where true means +1.

    Args:
        signs: `(m, n)`.

    Returns:
        uint8 `(m, ceil(n / 8))`.

    Raises:
        ClisonixError: an entry is neither +1 nor -1.
    """
    if signs.ndim != 2:
        raise ClisonixError(f"Signs of shape {tuple(signs.shape)} cannot be packed; give a matrix (m, n).")
    if signs.dtype != torch.bool:
        if not bool((signs.abs() == 1).all()):
            raise ClisonixError("Only +1 and -1 can be packed; take `w >= 0` of a matrix with other entries.")
        signs = signs > 0
    return pack_bits(signs)


def unpack_signs(packed: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix `(m, n)` of ±1 in `dtype` that `pack_signs` packed into `packed (m, ceil(n / 8))`."""
    return unpack_bits(packed, n).to(dtype).mul_(2).sub_(1)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack zeros and ones `(m, n)` of any type into uint8 `(m, ceil(n / 8))`."""
    m, n = bits.shape
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -n % 8))
    return (padded.view(m, -(-n // 8), 8) << _shifts(bits.device)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The zeros and ones `(m, n)`, uint8, that `pack_bits` packed."""
    return ((packed.unsqueeze(-1) >> _shifts(packed.device)) & 1).flatten(-2)[:, :n]


def binary_matmul(x: Tensor, packed: Tensor, scales: Tensor, n: int) -> Tensor:
    """`x @ (scales[:, None] * signs).T`, unpacking one block of rows at a time.

    Args:
        x: `(..., n)`.
        packed: uint8 `(m, ceil(n / 8))`, as from `pack_signs`.
        scales: `(m,)`.
        n: number of columns.

    Returns:
        `(..., m)`, differentiable in `x` and `scales` any number of times.
    """
    product: Tensor = _sign_matmul(x, packed, n)
    return product * scales


def binary_matmul_t(x: Tensor, packed: Tensor, scales: Tensor, n: int) -> Tensor:
    """`x @ (scales[:, None] * signs)`: `(..., m)` to `(..., n)`, otherwise as `binary_matmul`."""
    product: Tensor = _sign_matmul_t(x * scales, packed, n)
    return product


@torch.library.custom_op("clisonix::sign_matmul", mutates_args=())
def _sign_matmul(x: Tensor, packed: Tensor, n: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(math.prod(x.shape[:-1]), n)
        out = rows.new_empty(rows.shape[0], packed.shape[0])
        for start, block in _blocks(packed, n, x.dtype):
            out[:, start : start + block.shape[0]] = rows @ block.mT
        return out.reshape(*x.shape[:-1], packed.shape[0])


@torch.library.custom_op("clisonix::sign_matmul_t", mutates_args=())
def _sign_matmul_t(x: Tensor, packed: Tensor, n: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        m = packed.shape[0]
        rows = x.reshape(math.prod(x.shape[:-1]), m)
        # Half precision would lose a little at every block that is added.
        wide = torch.promote_types(x.dtype, torch.float32)
        out = rows.new_zeros(rows.shape[0], n, dtype=wide)
        for start, block in _blocks(packed, n, x.dtype):
            out += rows[:, start : start + block.shape[0]] @ block
        return out.to(x.dtype).reshape(*x.shape[:-1], n)


@_sign_matmul.register_fake
def _(x: Tensor, packed: Tensor, n: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], packed.shape[0])


@_sign_matmul_t.register_fake
def _(x: Tensor, packed: Tensor, n: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], n)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    _, packed, n = inputs
    ctx.save_for_backward(packed)
    ctx.n = n  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    (packed,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return _sign_matmul_t(grad, packed, ctx.n), None, None  # type: ignore[attr-defined]


def _backward_t(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    (packed,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return _sign_matmul(grad, packed, ctx.n), None, None  # type: ignore[attr-defined]


# Each operator is linear in x and the other one is its derivative, so both can be differentiated for ever.
_sign_matmul.register_autograd(_backward, setup_context=_save)
_sign_matmul_t.register_autograd(_backward_t, setup_context=_save)


def _blocks(packed: Tensor, n: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    step = max(1, BLOCK_ENTRIES // max(n, 1))
    for start in range(0, packed.shape[0], step):
        yield start, unpack_signs(packed[start : start + step], n, dtype)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
