"""Bit planes in plain torch: packing, unpacking, and the three products that the kernels must agree with."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Rows are unpacked in blocks of at most about this many entries: 4 MB of float32, which stays in cache.
BLOCK_ENTRIES = 1 << 20


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


def matmul(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """`x @ entries.T`, as `clisonix.kernels.planes.packed_matmul`."""
    with torch.autocast(x.device.type, enabled=False):
        rows, m, dtype = _rows(x), planes.shape[-2], _wide(x)
        out = rows.new_empty(rows.shape[0], m)
        for some, part in _parts(rows, planes, n):
            entries = _entries(planes[..., part, :], scales[part], n, group, step, offset, dtype)
            out[some, part] = rows[some].to(dtype) @ entries.mT
        return out.reshape(*x.shape[:-1], m)


def matmul_t(x: Tensor, scales: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """`x @ entries`, as `clisonix.kernels.planes.packed_matmul_t`."""
    with torch.autocast(x.device.type, enabled=False):
        rows, dtype = _rows(x), _wide(x)
        # Half precision would lose a little at every block that is added.
        out = rows.new_zeros(rows.shape[0], n, dtype=torch.promote_types(x.dtype, torch.float32))
        for some, part in _parts(rows, planes, n):
            entries = _entries(planes[..., part, :], scales[part], n, group, step, offset, dtype)
            out[some] += rows[some, part].to(dtype) @ entries
        return out.to(x.dtype).reshape(*x.shape[:-1], n)


def scale_sums(left: Tensor, right: Tensor, planes: Tensor, n: int, group: int, step: int, offset: int) -> Tensor:
    """The derivative of a product by its scales: `left.T @ right` times the levels, summed over each group.

    Shapes `(..., m), (..., n)` to `(m, ceil(n / group))`, in float32 for halves.
    """
    with torch.autocast(left.device.type, enabled=False):
        rows_left, rows_right, dtype, groups = _rows(left), _rows(right), _wide(left), -(-n // group)
        wide = torch.promote_types(left.dtype, torch.float32)
        sums = rows_left.new_zeros(planes.shape[-2], groups, dtype=wide)
        for some, part in _parts(rows_right, planes, n):
            terms = rows_left[some, part].to(dtype).mT @ rows_right[some].to(dtype)
            terms *= _levels(planes[..., part, :], n, step, offset, dtype)
            padded = torch.nn.functional.pad(terms, (0, groups * group - n))
            sums[part] += padded.view(padded.shape[0], groups, group).sum(-1, dtype=wide)
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


def _parts(rows: Tensor, planes: Tensor, n: int) -> Iterator[tuple[slice, slice]]:
    """Which rows of the input, and which of the matrix, to multiply at a time.

    On a CPU what is unpacked takes about an eighth of what the product holds in any case. On other devices
    larger blocks are worth their memory, since each costs several launches.
    """
    entries, m = BLOCK_ENTRIES, planes.shape[-2]
    if rows.device.type == "cpu":
        held = planes.numel() + (rows.numel() + rows.shape[0] * m) * rows.element_size()
        entries = min(entries, max(1 << 16, held // 80))
    step = max(1, entries // max(n, 1))
    # Halves are copied to be widened, so few of them at a time.
    some = max(1, rows.shape[0] if _wide(rows) == rows.dtype else entries // max(rows.shape[1], 1))
    for first in range(0, rows.shape[0], some):
        for start in range(0, m, step):
            yield slice(first, first + some), slice(start, min(start + step, m))


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
