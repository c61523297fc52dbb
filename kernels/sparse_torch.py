"""Products with a sparse matrix through torch alone: the reference, and what runs where there is nothing better.

torch has no half-precision sparse products on a CPU, so half precision is widened and rounded once at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

# Blocks are gathered about this many numbers at a time: 4 MB of float32.
GATHERED = 1 << 20


def multiply(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool) -> Tensor:
    """`(k, n)` to `(k, m)`, or turned `(n, k)` to `(m, k)`; see `clisonix.kernels.sparse`."""
    with torch.autocast(x.device.type, enabled=False):
        wide, values = _alike(_widen(x), _widen(values))
        if values.ndim == 3:
            product = _multiply_blocks(wide if turned else wide.mT, values, crow, col, m)
            return (product if turned else product.mT).to(x.dtype).contiguous()
        matrix = _csr(values, crow, col, n)
        product = matrix @ wide if turned else wide @ matrix.mT
        return product.to(x.dtype).contiguous()


def multiply_t(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool) -> Tensor:
    """`(k, m)` to `(k, n)`, or turned `(m, k)` to `(n, k)`."""
    with torch.autocast(x.device.type, enabled=False):
        wide, values = _alike(_widen(x), _widen(values))
        if values.ndim == 3:
            product = _multiply_blocks_t(wide if turned else wide.mT, values, crow, col, n)
            return (product if turned else product.mT).to(x.dtype).contiguous()
        matrix = _csr(values, crow, col, n)
        product = matrix.mT @ wide if turned else wide @ matrix
        return product.to(x.dtype).contiguous()


def sample(left: Tensor, right: Tensor, crow: Tensor, col: Tensor, shape: list[int], turned: bool) -> Tensor:
    """The entries of `left.T @ right` (turned: `left @ right.T`) at the places of the matrix, in float32 or wider."""
    with torch.autocast(left.device.type, enabled=False):
        left, right = _alike(_widen(left), _widen(right))
        rows, columns = (left, right) if turned else (left.mT, right.mT)
        if len(shape) == 3:
            return _sample_blocks(rows, columns, crow, col, *shape[1:])
        pattern = _csr(left.new_zeros(col.shape[0]), crow, col, columns.shape[0])
        sampled: Tensor = torch.sparse.sampled_addmm(pattern, rows, columns.mT).values()
        return sampled


def _multiply_blocks(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int) -> Tensor:
    br, bc = values.shape[1:]
    entries = _in_blocks(x, bc)
    out = x.new_zeros(crow.shape[0] - 1, br, x.shape[1])
    for part, rows in _parts(crow, col, (br + bc) * x.shape[1]):
        out.index_add_(0, rows, values[part] @ entries[col[part].long()])
    return out.flatten(0, 1)[:m]


def _multiply_blocks_t(x: Tensor, values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    br, bc = values.shape[1:]
    entries = _in_blocks(x, br)
    out = x.new_zeros(-(-n // bc), bc, x.shape[1])
    for part, rows in _parts(crow, col, (br + bc) * x.shape[1]):
        out.index_add_(0, col[part].long(), values[part].mT @ entries[rows])
    return out.flatten(0, 1)[:n]


def _sample_blocks(left: Tensor, right: Tensor, crow: Tensor, col: Tensor, br: int, bc: int) -> Tensor:
    rows_in, columns_in = _in_blocks(left, br), _in_blocks(right, bc)
    out = left.new_empty(col.shape[0], br, bc)
    for part, rows in _parts(crow, col, (br + bc) * left.shape[1]):
        torch.bmm(rows_in[rows], columns_in[col[part].long()].mT, out=out[part])
    return out


def _in_blocks(x: Tensor, size: int) -> Tensor:
    """`(rows, k)` as `(blocks, size, k)`, filled up with zeros: blocks reach over the edge of the matrix."""
    rows, k = x.shape
    blocks = -(-rows // size)
    if rows % size:
        x = torch.nn.functional.pad(x, (0, 0, 0, blocks * size - rows))
    return x.reshape(blocks, size, k)


def _parts(crow: Tensor, col: Tensor, numbers: int) -> Iterator[tuple[slice, Tensor]]:
    """Some of the blocks at a time, with the block row of each."""
    count = col.shape[0]
    step = max(1, GATHERED // max(numbers, 1))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        places = torch.arange(part.start, part.stop, device=crow.device, dtype=crow.dtype)
        yield part, torch.searchsorted(crow, places, right=True) - 1


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _csr(values: Tensor, crow: Tensor, col: Tensor, n: int) -> Tensor:
    hear_beta_warning_once()
    return torch.sparse_csr_tensor(crow, col, values, size=(crow.shape[0] - 1, n), check_invariants=False)


@cache
def hear_beta_warning_once() -> None:
    """torch warns, once a process, that its CSR layout is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()
