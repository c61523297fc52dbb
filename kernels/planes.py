"""Products with matrices whose entries are small codes, stored as bit planes, with scales per row or group.

Plane `p` holds bit `p` of every code, eight columns to a byte: bit `j` of byte `i` of a row is column
`8·i + j`, and the bits past the last column are clear and never used. The entry at row `i`, column `j` is
`scales[i, j // group] * (step * code[i, j] - offset)`; signs, three levels and integers are all of this kind.

On a CPU planes may also be tiled, `(bits, m / 32, ceil(n / 8), 32)` as `planes_reference.tile` makes them: byte `i`
of 32 rows lies together, which is how the C++ kernels look sums up. Other planes they turn on the way, at about twice
the time of a product with one row.

The product is linear in the scales and in the input, so three operators of `torch.ops.clisonix` are each
other's derivatives: `packed_matmul`, `packed_matmul_t` and `packed_scale_sums`. On the CPU they run in C++,
where it can be built (`clisonix.kernels.cpu`); else in plain torch, one block of rows at a time. A kernel for
another device is registered on the three with `torch.library.register_kernel`. The operators whose names
end in `_reference` are plain torch everywhere.

The C++ kernels compute in float32 and round once. Their error is at most `1000 · 2**-24` times the product
of the absolute values of input and scales with the largest level, as a float32 dot product of a thousand
terms may have, and typically that of a float32 product: with one or few rows of input, each 512
inputs in a row are first rounded to multiples of a two-millionth of the largest of them. With many rows of float32
the entries are unpacked, a block of rows at a time, for torch's own product; a block takes at most a quarter of the
bytes of planes, input and output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from clisonix.errors import ClisonixError, nearest
from clisonix.kernels import cpu, planes_reference

Backend = Literal["auto", "reference", "cpu"]
BACKENDS = ("auto", "reference", "cpu")

SCHEMA = "(Tensor {}, Tensor {}, Tensor planes, SymInt n, SymInt group, SymInt step, SymInt offset) -> Tensor"


class Layout(NamedTuple):
    """How planes are read.

    Args:
        n: number of columns.
        group: columns that share a scale.
        step: by how much a level grows with its code.
        offset: how far below zero the level of code 0 is.
    """

    n: int
    group: int
    step: int
    offset: int


class Operators(NamedTuple):
    """Three operators of one backend that differentiate into each other."""

    matmul: Any
    matmul_t: Any
    scale_sums: Any


def packed_matmul(x: Tensor, scales: Tensor, planes: Tensor, layout: Layout, backend: Backend = "auto") -> Tensor:
    """`x @ entries.T`, holding few of the entries at a time: see above for how much that is with many rows.

    Args:
        x: `(..., n)`.
        scales: `(m, ceil(n / group))`, or `(m,)` where there is one group.
        planes: uint8 `(bits, m, ceil(n / 8))`, or `(m, ceil(n / 8))` for one bit; or tiled.
        layout: how the planes are read.
        backend: `"auto"` takes the fastest that there is. `"reference"` is plain torch. `"cpu"` is the C++
            kernels, and an error says why where they cannot be used.

    Returns:
        `(..., m)`, differentiable in `x` and `scales` any number of times.

    Raises:
        ClisonixError: an unknown backend, or one that cannot take this input.
    """
    product: Tensor = _operators(backend, x).matmul(x, scales, planes, *layout)
    return product


def packed_matmul_t(x: Tensor, scales: Tensor, planes: Tensor, layout: Layout, backend: Backend = "auto") -> Tensor:
    """`x @ entries`: `(..., m)` to `(..., n)`, otherwise as `packed_matmul`."""
    product: Tensor = _operators(backend, x).matmul_t(x, scales, planes, *layout)
    return product


def _operators(backend: Backend, x: Tensor) -> Operators:
    if backend == "auto":
        return AUTO
    if backend == "reference":
        return REFERENCE
    if backend != "cpu":
        raise ClisonixError(f"backend={backend!r} is unknown{nearest(backend, BACKENDS)}.")
    if x.device.type != "cpu" or x.dtype not in cpu.DTYPES:
        raise ClisonixError(
            f'backend="cpu" was given {x.dtype} on {x.device}; give float32, float16 or bfloat16 on the CPU, '
            'or use "auto".'
        )
    # While a graph is traced nothing is built; the operator does that when it runs.
    if not torch.compiler.is_compiling() and (reason := cpu.load("packed").missing) is not None:
        raise ClisonixError(f'backend="cpu" cannot be used: {reason}.')
    return AUTO


Kernel = Callable[..., Tensor]
REFERENCE_KERNELS: tuple[Kernel, Kernel, Kernel] = (
    planes_reference.matmul,
    planes_reference.matmul_t,
    planes_reference.scale_sums,
)


def _build_first(index: int) -> Kernel:
    """The operator before its C++ kernel is there: load or build that, and let it take over for good."""

    def kernel(x: Tensor, *others: Any) -> Tensor:  # noqa: ANN401 - three tensors, four numbers
        if x.device.type == "cpu" and x.dtype in cpu.DTYPES and cpu.load("packed").missing is None:
            result: Tensor = AUTO[index](x, *others)
            return result
        return REFERENCE_KERNELS[index](x, *others)

    return kernel


def _fake_matmul(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], planes_reference.row_count(planes))


def _fake_matmul_t(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], n)


def _fake_scale_sums(
    left: Tensor, right: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int
) -> Tensor:
    return left.new_empty(
        planes_reference.row_count(planes), -(-n // group), dtype=torch.promote_types(left.dtype, torch.float32)
    )


_Grads = tuple[Tensor | None, Tensor | None, None, None, None, None, None]


def _define(suffix: str, kernels: tuple[Kernel, Kernel, Kernel]) -> Operators:
    names = ("packed_matmul" + suffix, "packed_matmul_t" + suffix, "packed_scale_sums" + suffix)
    schemas = (SCHEMA.format("x", "scales"), SCHEMA.format("x", "scales"), SCHEMA.format("left", "right"))
    fakes = (_fake_matmul, _fake_matmul_t, _fake_scale_sums)
    definitions = []
    for name, schema, kernel, fake in zip(names, schemas, kernels, fakes, strict=True):
        definition = torch.library.custom_op(f"clisonix::{name}", kernel, mutates_args=(), schema=schema)
        definition.register_fake(fake)
        definitions.append(definition)
    # Called by their packets, not by the objects just made, which add a layer of Python to each call.
    matmul, matmul_t, scale_sums = (getattr(torch.ops.clisonix, name).default for name in names)

    def backward(ctx: FunctionCtx, grad: Tensor) -> _Grads:
        x, scales, planes, needs, layout = _saved(ctx)
        grad_x = matmul_t(grad, scales, planes, *layout) if needs[0] else None
        grad_scales = _shaped(scale_sums(grad, x, planes, *layout), scales) if needs[1] else None
        return grad_x, grad_scales, None, None, None, None, None

    def backward_t(ctx: FunctionCtx, grad: Tensor) -> _Grads:
        x, scales, planes, needs, layout = _saved(ctx)
        grad_x = matmul(grad, scales, planes, *layout) if needs[0] else None
        grad_scales = _shaped(scale_sums(x, grad, planes, *layout), scales) if needs[1] else None
        return grad_x, grad_scales, None, None, None, None, None

    def backward_sums(ctx: FunctionCtx, grad: Tensor) -> _Grads:
        left, right, planes, needs, layout = _saved(ctx)
        grad_left = matmul(right, grad, planes, *layout) if needs[0] else None
        grad_right = matmul_t(left, grad, planes, *layout) if needs[1] else None
        return grad_left, grad_right, None, None, None, None, None

    for definition, formula in zip(definitions, (backward, backward_t, backward_sums), strict=True):
        definition.register_autograd(formula, setup_context=_save)
    return Operators(matmul, matmul_t, scale_sums)


def _shaped(sums: Tensor, scales: Tensor) -> Tensor:
    # Without columns there is still one scale a row, where it is given as a vector.
    return sums.view(scales.shape) if sums.shape[1] else torch.zeros_like(scales)


def _save(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.layout = inputs[3:]  # type: ignore[attr-defined]


def _saved(ctx: FunctionCtx) -> tuple[Tensor, Tensor, Tensor, tuple[bool, ...], Layout]:
    first, second, planes = ctx.saved_tensors  # type: ignore[attr-defined]
    return first, second, planes, ctx.needs_input_grad, Layout(*ctx.layout)  # type: ignore[attr-defined]


REFERENCE = _define("_reference", REFERENCE_KERNELS)
AUTO = _define("", (_build_first(0), _build_first(1), _build_first(2)))
