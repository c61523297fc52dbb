"""Calls `cpu/sparse.cpp` and `cpu/twofour.cpp`: sparse products on a CPU without a copy of operand or matrix."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels import cpu

TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Values in float32 may meet half precision, as under autocast; other pairs are converted first.
PAIRS = {(torch.float32, torch.float16), (torch.float32, torch.bfloat16)} | {(dtype, dtype) for dtype in TYPES}
MULTIPLY, MULTIPLY_T, SAMPLE = range(3)

# The fields of `SparseCall` in `cpu/sparse.h`, in their order, of eight bytes each: operation, values_type,
# dense_type, wide_index, threads; m, n, br, bc, down, right, k; the pointers crow, col, values, x, y, out;
# x_ld, y_ld, out_ld, x_across, y_across, out_across.
_CALL = struct.Struct("=24q")


class Places(NamedTuple):
    """What the kernels know of a matrix beside its values.

    Args:
        library: the name of the one for such matrices.
        crow: where rows begin, or the packed places of two of four.
        col: the columns, or the packed places again.
        m: rows.
        n: columns.
    """

    library: str
    crow: Tensor
    col: Tensor
    m: int
    n: int


def is_possible(x: Tensor, places: Places) -> bool:
    """Whether the kernels can take `x`: on a CPU with a compiler, of a type they have, not beyond 2**31 columns."""
    if x.device.type != "cpu" or x.dtype not in TYPES or places.n >= 2**31:
        return False
    return cpu.load(places.library).path is not None


def multiply(operation: int, x: Tensor, values: Tensor, places: Places, turned: bool) -> Tensor:
    """The product `MULTIPLY` with the matrix or `MULTIPLY_T` with its transpose.

    Args:
        operation: which.
        x: `(k, n)` or turned `(n, k)`, for the transpose `m` instead of `n`; any strides, copied only if no
            dimension is contiguous.
        values: `(nnz,)`, `(m, kept)`, or blocks `(nnz, br, bc)`, each stored by rows or by columns.
        places: the matrix.
        turned: whether vectors are columns.

    Returns:
        `(k, m)` or turned `(m, k)`, for the transpose `n` instead of `m`; contiguous, in the dtype of `x`.
    """
    if (values.dtype, x.dtype) not in PAIRS:
        values = values.to(x.dtype)
    if not (values.is_contiguous() or (values.ndim == 3 and values.mT.is_contiguous())):
        values = values.contiguous()
    size = places.m if operation == MULTIPLY else places.n
    block = (*values.shape[1:], *values.stride()[1:]) if values.ndim == 3 else (1, 1, 0, 0)
    x, vectors, x_ld, x_across = _layout(x, turned)
    across = turned or vectors == 1
    if turned:
        out, out_ld = x.new_empty(size, vectors), vectors
    else:
        out, out_ld = x.new_empty(vectors, size), 1 if across else size
    sizes, layout = (*block, vectors), (x_ld, 0, out_ld, x_across, 0, across)
    _run(operation, places, sizes, values, (x.data_ptr(), 0), out.data_ptr(), x.dtype, layout)
    return out


def sample(left: Tensor, right: Tensor, places: Places, shape: Sequence[int], turned: bool) -> Tensor:
    """The entries of `left.T @ right` (turned: `left @ right.T`) at the places: `shape`, in float32 or wider."""
    x, vectors, x_ld, x_across = _layout(left, turned)
    y, _, y_ld, y_across = _layout(right.to(left.dtype), turned)
    out = left.new_empty(shape, dtype=torch.promote_types(left.dtype, torch.float32))
    sizes, layout = (1, 1, 0, 0, vectors), (x_ld, y_ld, 0, x_across, y_across, 0)
    _run(SAMPLE, places, sizes, left, (x.data_ptr(), y.data_ptr()), out.data_ptr(), left.dtype, layout)
    return out


def _run(
    operation: int,
    places: Places,
    sizes: tuple[int, ...],
    values: Tensor,
    operands: tuple[int, int],
    out: int,
    dtype: torch.dtype,
    layout: tuple[int, ...],
) -> None:
    call = _CALL.pack(
        operation,
        TYPES[values.dtype],
        TYPES[dtype],
        places.crow.dtype == torch.int64,
        torch.get_num_threads(),
        places.m,
        places.n,
        *sizes,
        places.crow.data_ptr(),
        places.col.data_ptr(),
        values.data_ptr(),
        *operands,
        out,
        *layout,
    )
    if _function(places.library)(call, PORTABLE) != 0:
        raise ClisonixError(f"The sparse kernel has no product of {dtype} with values of {values.dtype}.")


# The tests set this to leave the instruction set of the machine unused.
PORTABLE = 0


@cache
def _function(name: str) -> Callable[..., int]:
    library = cpu.library(name)
    if library is None:
        raise ClisonixError(f"The {name} kernels cannot be used: {cpu.load(name).missing}.")
    function: Callable[..., int] = library[f"clisonix_{name}"]
    return function


def _layout(x: Tensor, turned: bool) -> tuple[Tensor, int, int, bool]:
    """An operand `(vectors, entries)`, or turned `(entries, vectors)`, as the kernels take it.

    Returns:
        It, or a copy if no dimension is contiguous; how many vectors; what is from one entry to the next if they lie
        across, else from one vector to the next; and whether they lie across.
    """
    vectors = x.shape[1 if turned else 0]
    entry, vector = x.stride() if turned else x.stride()[::-1]
    if vectors == 1 or vector == 1:
        return x, vectors, entry, True
    if entry == 1:
        return x, vectors, vector, False
    return x.contiguous(), vectors, x.shape[1], turned
