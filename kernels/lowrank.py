"""The product with a low-rank matrix, `(x @ right.T) @ left.T`."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError, nearest

Backend = Literal["reference", "triton"]


def lowrank_matmul(x: Tensor, right: Tensor, left: Tensor, *, backend: Backend = "reference") -> Tensor:
    """`(x @ right.T) @ left.T`, never forming `left @ right`.

    Args:
        x: `(..., n)`.
        right: `(r, n)`.
        left: `(m, r)`.
        backend: `"reference"` is two matrix products of torch. `"triton"` keeps the `r` numbers of each row
            on chip between them; it takes float16 and float32 and ranks up to 256. Its results have been
            checked in Triton's interpreter only, it has not yet run on a GPU, so nothing selects it.

    Returns:
        `(..., m)`, differentiable in all three.

    Raises:
        ClisonixError: an unknown backend, no Triton, or an input the chosen backend does not take.
    """
    if backend == "reference":
        return F.linear(F.linear(x, right), left)
    if backend != "triton":
        raise ClisonixError(f"backend={backend!r} is unknown{nearest(backend, ('reference', 'triton'))}.")
    if find_spec("triton") is None:
        raise ClisonixError('backend="triton" needs the package triton; install it or use "reference".')
    if x.dtype not in (torch.float16, torch.float32) or {right.dtype, left.dtype} != {x.dtype}:
        raise ClisonixError(
            f'backend="triton" was given {x.dtype}, {right.dtype} and {left.dtype}; '
            'give three of float16 or three of float32, or use "reference".'
        )
    if right.shape[0] > 256:
        raise ClisonixError(f'backend="triton" holds ranks up to 256, not {right.shape[0]}; use "reference".')
    fused: Tensor = _lowrank_matmul_triton(x, right, left)
    return fused


@torch.library.custom_op("clisonix::lowrank_matmul_triton", mutates_args=())
def _lowrank_matmul_triton(x: Tensor, right: Tensor, left: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        from clisonix.kernels.lowrank_triton import launch

        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()
        out = rows.new_empty(rows.shape[0], left.shape[0])
        launch(rows, right.contiguous(), left.contiguous(), out)
        return out.reshape(*x.shape[:-1], left.shape[0])


@_lowrank_matmul_triton.register_fake
def _(x: Tensor, right: Tensor, left: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], left.shape[0])


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    # The inner product is computed again: r columns are cheaper to recompute than to keep.
    x, right, left = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    inner_grad = grad @ left
    rows = x.flatten(0, -2)
    return (
        inner_grad @ right if needs[0] else None,
        inner_grad.flatten(0, -2).mT @ rows if needs[1] else None,
        grad.flatten(0, -2).mT @ F.linear(rows, right) if needs[2] else None,
    )


_lowrank_matmul_triton.register_autograd(_backward, setup_context=_save)
