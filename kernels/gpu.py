"""Products with bit-packed matrices on a GPU, as operators of torch with gradients.

`operators` gives the three products of `clisonix.kernels.planes` on one of two backends: "triton", any number of bits
and any group of columns that shares a scale, and "cuda", 1 or 2 bits with one scale a row, whose backward is
Triton's. Two more products have no counterpart there: `packed_lowrank_matmul`, which adds a low-rank term at the end
of the packed product, and `double_binary`, a chain of two matrices of signs.

None of these has run on a GPU yet (docs/gpu.md says how they were checked), so nothing selects them by itself.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from clisonix.errors import ClisonixError, nearest
from clisonix.kernels import planes
from clisonix.kernels.planes import Layout, Operators
from clisonix.kernels.planes_reference import by_row, row_count

Backend = Literal["triton", "cuda"]
BACKENDS = ("triton", "cuda")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def operators(backend: Backend, x: Tensor) -> Operators:
    """`matmul`, `matmul_t` and `scale_sums` of a backend, each other's derivatives, for an input like `x`.

    Raises:
        ClisonixError: an unknown backend, or one that cannot run or cannot take `x`.
    """
    check(backend, x)
    return TRITON if backend == "triton" else CUDA


def packed_lowrank_matmul(
    x: Tensor,
    scales: Tensor,
    packed: Tensor,
    layout: Layout,
    right: Tensor,
    left: Tensor,
    *,
    backend: str = "reference",
) -> Tensor:
    """`x @ entries.T + (x @ right.T) @ left.T`, the second term added where the first one leaves the chip.

    Args:
        x: `(..., n)`.
        scales: `(m, ceil(n / group))`, or `(m,)`.
        packed: uint8 `(bits, m, ceil(n / 8))`, or `(m, ceil(n / 8))`.
        layout: how `packed` is read.
        right: `(r, n)`, of the dtype of `x`.
        left: `(m, r)`, of the dtype of `x`.
        backend: `"reference"` is two products of torch; `"triton"` is one kernel for `x @ right.T` and one for the
            rest.

    Returns:
        `(..., m)`, differentiable in `x`, `scales`, `right` and `left`.
    """
    if backend == "reference":
        inner = torch.nn.functional.linear(x, right)
        return planes.packed_matmul(x, scales, packed, layout, "reference") + torch.nn.functional.linear(inner, left)
    check(backend, x, ("triton",))
    product: Tensor = _packed_lowrank(x, scales, packed, right, left, *layout)
    return product


def double_binary(
    x: Tensor, a: Tensor, s1: Tensor, b: Tensor, s2: Tensor, c: Tensor, *, backend: str = "reference"
) -> Tensor:
    """`a * (S1 @ (b * (S2 @ (c * x))))` for every vector of `x`, with two matrices of signs.

    Args:
        x: `(..., n)`.
        a: `(m,)`. s1: uint8 `(m, ceil(r / 8))`. b: `(r,)`. s2: uint8 `(r, ceil(n / 8))`. c: `(n,)`.
        backend: `"reference"` is one product after the other; `"triton"` and `"cuda"` are two launches.

    Returns:
        `(..., m)`, differentiable in `x`, `a`, `b` and `c`.
    """
    if backend == "reference":
        middle = planes.packed_matmul(x * c, b, s2, _signs(c), "reference")
        return planes.packed_matmul(middle, a, s1, _signs(b), "reference")
    check(backend, x)
    chain: Tensor = (_double_binary_triton if backend == "triton" else _double_binary_cuda)(x, a, s1, b, s2, c)
    return chain


def check(backend: str, x: Tensor, possible: tuple[str, ...] = BACKENDS) -> None:
    """Raise unless `backend` is one of `possible` and can run on a tensor like `x`."""
    if backend not in possible:
        raise ClisonixError(f"backend={backend!r} is unknown{nearest(backend, ('reference', *possible))}.")
    if find_spec("triton") is None:
        raise ClisonixError(f'backend="{backend}" needs the package triton; install it or use "reference".')
    if x.dtype not in DTYPES:
        raise ClisonixError(f'backend="{backend}" was given {x.dtype}; give float16, bfloat16 or float32.')
    # Tensors without data are traced, and the kernels run later, if at all.
    if not (x.is_cuda or x.is_meta or torch.compiler.is_compiling() or (backend == "triton" and interpreted())):
        raise ClisonixError(f'backend="{backend}" was given a tensor on {x.device}; move it to a GPU.')


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU."""
    from clisonix.kernels.planes_rows_triton import rows_kernel

    return type(rows_kernel).__name__ == "InterpretedFunction"


def _signs(columns: Tensor) -> Layout:
    """How the bytes of a matrix of signs with that many columns are read."""
    return Layout(columns.shape[0], max(columns.shape[0], 1), 2, 1)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()


def _packed(scales: Tensor, packed: Tensor, n: int, group: int, step: int, offset: int) -> Any:  # noqa: ANN401
    from clisonix.kernels.planes_triton import Packed

    columns = scales.reshape(row_count(packed), -1).contiguous()
    return Packed(_three(packed), columns, n, max(group, 1), step, offset)


def _three(packed: Tensor) -> Tensor:
    packed = by_row(packed)
    return (packed if packed.ndim == 3 else packed[None]).contiguous()


def _matmul(x: Tensor, scales: Tensor, packed: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    from clisonix.kernels import planes_launch_triton as launch

    out = launch.matmul(_rows(x), _packed(scales, packed, n, group, step, offset))
    return out.reshape(*x.shape[:-1], out.shape[1])


def _matmul_t(x: Tensor, scales: Tensor, packed: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    from clisonix.kernels import planes_launch_triton as launch

    return launch.matmul_t(_rows(x), _packed(scales, packed, n, group, step, offset)).reshape(*x.shape[:-1], n)


def _scale_sums(left: Tensor, right: Tensor, packed: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    from clisonix.kernels import planes_launch_triton as launch
    from clisonix.kernels.planes_triton import Packed

    weight = Packed(_three(packed), None, n, max(group, 1), step, offset)
    return launch.scale_sums(_rows(left), _rows(right), weight)


def _matmul_cuda(x: Tensor, scales: Tensor, packed: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    from clisonix.kernels import cuda

    if group < n:
        raise ClisonixError(
            f'backend="cuda" takes one scale a row, not one for every {group} of {n} columns; use "triton".'
        )
    planes_of = _three(packed)
    out = cuda.packed_product(
        _rows(x), planes_of, n, step=step, offset=offset, row_scales=scales.reshape(-1).contiguous()
    )
    return out.reshape(*x.shape[:-1], out.shape[1])


TRITON = planes._define("_triton", (_matmul, _matmul_t, _scale_sums))
CUDA = planes._define("_cuda", (_matmul_cuda, _matmul_t, _scale_sums))


@torch.library.custom_op("clisonix::packed_lowrank_matmul_triton", mutates_args=())
def _packed_lowrank(
    x: Tensor,
    scales: Tensor,
    packed: Tensor,
    right: Tensor,
    left: Tensor,
    n: int,
    group: int,
    step: int,
    offset: int,
) -> Tensor:
    from clisonix.kernels import lowrank_triton
    from clisonix.kernels import planes_launch_triton as launch

    rows = _rows(x)
    inner = lowrank_triton.inner_parts(rows, right.contiguous())
    weight = _packed(scales, packed, n, group, step, offset)
    return launch.matmul(rows, weight, inner=inner, left=left.contiguous()).reshape(*x.shape[:-1], left.shape[0])


@_packed_lowrank.register_fake
def _(x: Tensor, scales: Tensor, packed: Tensor, right: Tensor, left: Tensor, *layout: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], left.shape[0])


def _save(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.layout = Layout(*inputs[5:]) if len(inputs) == 9 else None  # type: ignore[attr-defined]


def _lowrank_backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scales, packed, right, left = ctx.saved_tensors  # type: ignore[attr-defined]
    needs, layout = ctx.needs_input_grad, ctx.layout  # type: ignore[attr-defined]
    # The inner product is computed again: r numbers a row are cheaper to recompute than to keep.
    inner_grad = grad @ left
    rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
    grad_x = TRITON.matmul_t(grad, scales, packed, *layout) + inner_grad @ right if needs[0] else None
    grad_scales = TRITON.scale_sums(grad, x, packed, *layout).view(scales.shape) if needs[1] else None
    grad_right = inner_grad.flatten(0, -2).mT @ rows if needs[3] else None
    grad_left = grads.mT @ torch.nn.functional.linear(rows, right) if needs[4] else None
    return grad_x, grad_scales, None, grad_right, grad_left, None, None, None, None


_packed_lowrank.register_autograd(_lowrank_backward, setup_context=_save)


@torch.library.custom_op("clisonix::double_binary_triton", mutates_args=())
def _double_binary_triton(x: Tensor, a: Tensor, s1: Tensor, b: Tensor, s2: Tensor, c: Tensor) -> Tensor:
    from clisonix.kernels import planes_launch_triton as launch

    out = launch.double_binary(_rows(x), *(t.contiguous() for t in (a, s1, b, s2, c)))
    return out.reshape(*x.shape[:-1], a.shape[0])


@torch.library.custom_op("clisonix::double_binary_cuda", mutates_args=())
def _double_binary_cuda(x: Tensor, a: Tensor, s1: Tensor, b: Tensor, s2: Tensor, c: Tensor) -> Tensor:
    from clisonix.kernels import cuda

    out = cuda.double_binary(_rows(x), *(t.contiguous() for t in (a, s1, b, s2, c)))
    return out.reshape(*x.shape[:-1], a.shape[0])


def _fake_chain(x: Tensor, a: Tensor, s1: Tensor, b: Tensor, s2: Tensor, c: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], a.shape[0])


def _chain_backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, a, s1, b, s2, c = ctx.saved_tensors  # type: ignore[attr-defined]
    inner, outer = _signs(c), _signs(b)
    scaled = x * c
    middle = TRITON.matmul(scaled, b, s2, *inner)
    grad_middle = TRITON.matmul_t(grad, a, s1, *outer)
    grad_scaled = TRITON.matmul_t(grad_middle, b, s2, *inner)
    grad_a = TRITON.scale_sums(grad, middle, s1, *outer).view(a.shape)
    grad_b = TRITON.scale_sums(grad_middle, scaled, s2, *inner).view(b.shape)
    grad_c = (grad_scaled * x).flatten(0, -2).sum(0)
    return grad_scaled * c, grad_a, None, grad_b, None, grad_c


for _operator in (_double_binary_triton, _double_binary_cuda):
    _operator.register_fake(_fake_chain)
    _operator.register_autograd(_chain_backward, setup_context=_save)
