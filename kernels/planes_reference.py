"""Bit planes in plain torch: packing, unpacking, and the three products that the kernels must agree with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Rows are unpacked in blocks of at most about this many entries: 4 MB of float32, which stays in cache.
BLOCK_ENTRIES = 1 << 20

ROWS_OF_TILE = 32
TILED = 4
"""Dimensions of tiled planes."""


def pack_bits(bits: Tensor) -> Tensor:
    """Pack zeros and ones `(m, n)` of any type into uint8 `(m, ceil(n / 8))`."""
    m, n = bits.shape
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -n % 8))
    return (padded.view(m, -(-n // 8), 8) << _shifts(bits.device)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The zeros and ones `(m, n)`, uint8, that `pack_bits` packed."""
    return ((packed.unsqueeze(-1) >> _shifts(packed.device)) & 1).flatten(-2)[:, :n]


def unpack_codes(planes: Tensor, n: int) -> Tensor:
    """The codes `(m, n)`, uint8, whose bit `p` is in plane `p` of `planes (bits, m, ceil(n / 8))`."""
    codes = unpack_bits(planes[0], n)
    for plane in range(1, planes.shape[0]):
        codes = codes | (unpack_bits(planes[plane], n) << plane)
    return codes


def tile(planes: Tensor) -> Tensor:
    """Planes `(bits, m, bytes)` as tiles `(bits, m / 32, bytes, 32)`: byte `k` of 32 rows, then the next."""
    bits, m, size = planes.shape
    return planes.reshape(bits, m // ROWS_OF_TILE, ROWS_OF_TILE, size).mT.contiguous()


def by_row(planes: Tensor) -> Tensor:
    """Planes whose bytes of a row lie together, `(bits, m, bytes)`: what `tile` was given, or `planes` itself."""
    return planes.mT.flatten(1, 2) if planes.ndim == TILED else planes


def row_count(planes: Tensor) -> int:
    """How many rows planes of either kind have."""
    return planes.shape[1] * planes.shape[3] if planes.ndim == TILED else planes.shape[-2]


def matmul(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """`x @ entries.T`, as `clisonix.kernels.planes.packed_matmul`."""
    planes = by_row(planes)
    with torch.autocast(x.device.type, enabled=False):
        rows, m, dtype = _rows(x), planes.shape[-2], _wide(x)
        out = rows.new_empty(rows.shape[0], m)
        for some in _batches(rows, planes):
            for part in _blocks(rows, planes, n):
                entries = _entries(planes[..., part, :], scales[part], n, group, step, offset, dtype)
                out[some, part] = rows[some].to(dtype) @ entries.mT
        return out.reshape(*x.shape[:-1], m)


def matmul_t(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """`x @ entries`, as `clisonix.kernels.planes.packed_matmul_t`."""
    planes = by_row(planes)
    with torch.autocast(x.device.type, enabled=False):
        rows, dtype = _rows(x), _wide(x)
        out = rows.new_empty(rows.shape[0], n)
        for some in _batches(rows, planes):
            # Half precision would lose a little at every block that is added.
            sums = rows.new_zeros(out[some].shape, dtype=torch.promote_types(dtype, torch.float32))
            for part in _blocks(rows, planes, n):
                entries = _entries(planes[..., part, :], scales[part], n, group, step, offset, dtype)
                sums += rows[some, part].to(dtype) @ entries
            out[some] = sums
        return out.reshape(*x.shape[:-1], n)


def scale_sums(left: Tensor, right: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """The derivative of a product by its scales: `left.T @ right` times the levels, summed over each group.

    Shapes `(..., m), (..., n)` to `(m, ceil(n / group))`, in float32 for halves.
    """
    planes = by_row(planes)
    with torch.autocast(left.device.type, enabled=False):
        rows_left, rows_right, dtype, groups = _rows(left), _rows(right), _wide(left), -(-n // group)
        wide = torch.promote_types(left.dtype, torch.float32)
        sums = rows_left.new_zeros(planes.shape[-2], groups, dtype=wide)
        for some in _batches(rows_right, planes):
            for part in _blocks(rows_right, planes, n):
                terms = rows_left[some, part].to(dtype).mT @ rows_right[some].to(dtype)
                terms *= _levels(planes[..., part, :], n, step, offset, dtype)
                if groups * group > n:
                    terms = torch.nn.functional.pad(terms, (0, groups * group - n))
                sums[part] += terms.view(terms.shape[0], groups, group).sum(-1, dtype=wide)
        return sums


def _levels(planes: Tensor, n: int, step: int, offset: int, dtype: torch.dtype) -> Tensor:
    codes = unpack_codes(planes, n) if planes.ndim == 3 else unpack_bits(planes, n)
    return codes.to(dtype).mul_(step).sub_(offset)


def _entries(
    planes: Tensor, scales: Tensor, n: int, group: int, step: int, offset: int, dtype: torch.dtype
) -> Tensor:
    levels, scales = _levels(planes, n, step, offset, dtype), scales.to(dtype)
    if scales.ndim == 1:
        return levels.mul_(scales[:, None])
    return levels.mul_(scales if group >= n else scales.repeat_interleave(group, dim=1)[:, :n])


def _rows(x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _wide(x: Tensor) -> torch.dtype:
    # A CPU multiplies halves several times slower than float32, and rounds entries and sums on the way.
    return torch.promote_types(x.dtype, torch.float32) if x.device.type == "cpu" else x.dtype


def _blocks(rows: Tensor, planes: Tensor, n: int) -> Iterator[slice]:
    """Which rows of the matrix to unpack at a time."""
    m, step = planes.shape[-2], max(1, _entries_at_once(rows, planes) // max(n, 1))
    return (slice(start, min(start + step, m)) for start in range(0, m, step))


def _batches(rows: Tensor, planes: Tensor) -> Iterator[slice]:
    """Which rows of the input to multiply at a time: halves are copied to be widened, so few of them."""
    count = rows.shape[0]
    some = (
        count
        if _wide(rows) == rows.dtype
        else _entries_at_once(rows, planes) // max(rows.shape[1], planes.shape[-2], 1)
    )
    return (slice(first, first + max(1, some)) for first in range(0, count, max(1, some)))


def _entries_at_once(rows: Tensor, planes: Tensor) -> int:
    """On a CPU what is unpacked takes about an eighth of what the product holds in any case.

    On other devices larger blocks are worth their memory, since each costs several launches.
    """
    if rows.device.type != "cpu":
        return BLOCK_ENTRIES
    held = planes.numel() + (rows.numel() + rows.shape[0] * planes.shape[-2]) * rows.element_size()
    return min(BLOCK_ENTRIES, max(1 << 16, held // 80))


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
