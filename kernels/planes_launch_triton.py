"""Launches of the Triton kernels for bit-packed matrices: shapes, splits and tiles.

Tensors are contiguous and checked by `clisonix.kernels.gpu`, which offers these products as operators.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clisonix.kernels.planes_columns_triton import columns_kernel, scale_sums_kernel
from clisonix.kernels.planes_rows_triton import add_kernel, rows_kernel
from clisonix.kernels.planes_triton import Device, Packed, Tile, device_of

# By (most rows of x in a block, capability): chosen for few instructions a weight in the machine code, not measured.
# `scripts/bench/liam_gpu.py --tune` prints measured lines to paste here.
ROW_TILES = {
    (1, 80): Tile(16, 128, 4, 3),
    (16, 80): Tile(64, 32, 4, 3),
    (32, 80): Tile(64, 32, 4, 3),
    (64, 80): Tile(64, 32, 4, 3),
    (1, 90): Tile(16, 128, 4, 3),
    (16, 90): Tile(64, 64, 4, 3),
    (32, 90): Tile(64, 32, 4, 3),
    (64, 90): Tile(64, 32, 4, 3),
}
COLUMN_TILES = {
    (16, 80): Tile(64, 64, 4, 3),
    (32, 80): Tile(64, 32, 4, 3),
    (64, 80): Tile(64, 16, 4, 3),
    (16, 90): Tile(64, 64, 4, 3),
    (32, 90): Tile(64, 32, 4, 3),
    (64, 90): Tile(64, 32, 4, 3),
}
# For the derivative by scales of groups of up to 128 columns, and of longer ones, on any device.
SUM_TILES = (Tile(64, 16, 4, 2), Tile(64, 32, 4, 2))
# Programs wanted for each multiprocessor before a sum is split.
PROGRAMS_EACH = 2
MAX_SPLITS = 8
TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def matmul(
    x: Tensor,
    weight: Packed,
    *,
    inner: Tensor | None = None,
    left: Tensor | None = None,
    overlap: bool = False,
    out_dtype: torch.dtype | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
) -> Tensor:
    """`x @ W.T`, plus `inner.sum(0) @ left.T` when these are given.

    Args:
        x: `(batch, n)`, contiguous; like all other floating-point tensors here float16, bfloat16 or float32.
        weight: the packed `(m, n)` matrix.
        inner: float32 `(splits, batch, r)`, contiguous: parts of `x @ right.T`.
        left: `(m, r)`, contiguous.
        overlap: start before the kernel that makes `inner` has ended; it must signal its dependents (sm_90).
        out_dtype: of the result; that of `x` unless given.
        tile: instead of the one in `ROW_TILES`.
        splits: parts of the columns, instead of what fills the device.

    Returns:
        `(batch, m)`.
    """
    dtype = out_dtype or x.dtype
    batch, m = x.shape[0], weight.planes.shape[1]
    device = device_of(x)
    block = block_of(batch)
    tile = tile or ROW_TILES[block, device.capability]
    programs = -(-m // tile.rows) * -(-batch // block)
    splits = splits or choose_splits(programs, weight.planes.shape[2] // tile.bytes, device)
    parts = x.new_empty(splits, batch, m, dtype=dtype if splits == 1 else torch.float32)
    if block == 1:
        _launch(x, (1, x.shape[1], 0), 8, weight, parts, tile, block, inner=inner, left=left, overlap=overlap)
    else:
        arranged = arrange(x)
        strides = (arranged.stride(0), arranged.stride(1), 0)
        _launch(arranged, strides, 1, weight, parts, tile, block, inner=inner, left=left, overlap=overlap)
    return parts[0] if splits == 1 else add_parts(parts, dtype)


def matmul_t(x: Tensor, weight: Packed, *, tile: Tile | None = None, splits: int | None = None) -> Tensor:
    """`x @ W` for `x (batch, m)`: `(batch, n)` in the dtype of `x`; `splits` are parts of the rows."""
    batch, (bits, m, row_bytes) = x.shape[0], weight.planes.shape
    device = device_of(x)
    block = max(block_of(batch), 16)
    tile = tile or COLUMN_TILES[block, device.capability]
    programs = -(-row_bytes // tile.bytes) * -(-batch // block)
    splits = splits or choose_splits(programs, m // tile.rows, device)
    parts = x.new_empty(splits, batch, weight.n, dtype=x.dtype if splits == 1 else torch.float32)
    if parts.numel() == 0:
        return parts[0]
    groups = 1 if weight.scales is None else weight.scales.shape[1]
    columns_kernel[(triton.cdiv(row_bytes, tile.bytes), triton.cdiv(batch, block), splits)](
        x,
        weight.planes,
        x if weight.scales is None else weight.scales,
        parts,
        *(batch, m, weight.n, row_bytes, m * row_bytes, groups, max(weight.group, 1)),
        PLANES=bits,
        STEP=weight.step,
        OFFSET=weight.offset,
        SCALING=weight.scaling,
        SPLITS=splits,
        DTYPE=TYPES[x.dtype],
        ROWS=tile.rows,
        BYTES=tile.bytes,
        BATCH=block,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return parts[0] if splits == 1 else add_parts(parts, x.dtype)


def scale_sums(left: Tensor, right: Tensor, weight: Packed, *, tile: Tile | None = None) -> Tensor:
    """The derivative by the scales: the levels times `left.T @ right`, summed over each group of columns.

    Args:
        left: `(batch, m)`.
        right: `(batch, n)`.
        weight: its scales are not read.
        tile: instead of one of `SUM_TILES`.

    Returns:
        float32 `(m, groups)`.
    """
    bits, m, row_bytes = weight.planes.shape
    groups = -(-weight.n // max(weight.group, 1))
    if groups == 1:
        # One scale a row: the product with unscaled levels has all that is needed.
        plain = matmul(right, weight._replace(scales=None), out_dtype=torch.float32)
        return (plain * left).sum(0)[:, None]
    out = left.new_empty(m, groups, dtype=torch.float32)
    if out.numel() == 0:
        return out
    tile = tile or SUM_TILES[weight.group > 128]
    arranged = arrange(right)
    scale_sums_kernel[(triton.cdiv(m, tile.rows), groups)](
        left,
        arranged,
        weight.planes,
        out,
        *(left.shape[0], m, weight.n, row_bytes, m * row_bytes, groups, weight.group),
        *arranged.stride()[:2],
        PLANES=bits,
        STEP=weight.step,
        OFFSET=weight.offset,
        ROWS=tile.rows,
        BYTES=tile.bytes,
        BATCH=16,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def double_binary(
    x: Tensor,
    a: Tensor,
    s1: Tensor,
    b: Tensor,
    s2: Tensor,
    c: Tensor,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
) -> Tensor:
    """`a * (S1 @ (b * (S2 @ (c * x))))` for every row of `x`, in two launches.

    The first writes the middle in the order in which the second reads it, in parts where it is split; the second adds
    the parts as it reads them.

    Args:
        x: `(batch, n)`, contiguous.
        a: `(m,)`. s1: uint8 `(m, ceil(r / 8))`. b: `(r,)`. s2: uint8 `(r, ceil(n / 8))`. c: `(n,)`.
        tile: as in `matmul`.
        splits: as in `matmul`, of the first product.

    Returns:
        `(batch, m)` in the dtype of `x`.
    """
    batch, n = x.shape
    m, r = a.shape[0], b.shape[0]
    device = device_of(x)
    block = block_of(batch)
    tile = tile or ROW_TILES[block, device.capability]
    programs = -(-r // tile.rows) * -(-batch // block)
    splits = splits or choose_splits(programs, s2.shape[1] // tile.bytes, device)
    middle = x.new_empty(splits, 8, batch, padded_bytes(r), dtype=torch.float32)
    inner = Packed(s2[None], None, n, n, 2, 1)
    _launch(x, (1, n, 0), 8, inner, middle, tile, block, column_scales=c, arranged=True)
    out = x.new_empty(1, batch, m)
    outer = Packed(s1[None], a[:, None], r, r, 2, 1)
    strides = (middle.stride(1), middle.stride(2), middle.stride(0))
    _launch(middle, strides, 1, outer, out, tile, block, x_splits=splits, column_scales=b)
    return out[0]


def block_of(batch: int) -> int:
    """The rows of `x` that one program takes: a size for which the tables have an entry."""
    return next((size for size in (1, 16, 32) if batch <= size), 64)


def choose_splits(programs: int, steps: int, device: Device) -> int:
    """Parts of a sum of `steps` steps, so that the device is full but no part is shorter than four steps."""
    wanted = -(-PROGRAMS_EACH * device.multiprocessors // max(programs, 1))
    return max(1, min(wanted, MAX_SPLITS, steps // 4))


def padded_bytes(n: int) -> int:
    """Entries of one bit of a vector of `n`, padded to whole 16-byte loads of any type."""
    return -(-n // 128) * 16


def arrange(x: Tensor) -> Tensor:
    """`(batch, n)` as `(8, batch, padded_bytes(n))`: entry `[j, v, i]` is `x[v, 8 * i + j]`, or zero."""
    batch, n = x.shape
    size = padded_bytes(n)
    return torch.nn.functional.pad(x, (0, 8 * size - n)).view(batch, size, 8).permute(2, 0, 1).contiguous()


def add_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """`parts.sum(0)` in float32, in the order of the parts, rounded once to `dtype`."""
    out = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    if out.numel():
        add_kernel[(triton.cdiv(out.numel(), 1024),)](parts, out, out.numel(), SPLITS=parts.shape[0], BLOCK=1024)
    return out


def _launch(
    x: Tensor,
    x_strides: tuple[int, int, int],
    byte_stride: int,
    weight: Packed,
    out: Tensor,
    tile: Tile,
    block: int,
    *,
    x_splits: int = 1,
    column_scales: Tensor | None = None,
    inner: Tensor | None = None,
    left: Tensor | None = None,
    arranged: bool = False,
    overlap: bool = False,
) -> None:
    """Write all parts of a product into `out`: `(splits, batch, m)`, or `(splits, 8, batch, bytes)` if `arranged`."""
    bits, m, row_bytes = weight.planes.shape
    splits, batch = out.shape[0], out.shape[-2]
    if out.numel() == 0:
        return
    rows = 8 * out.shape[-1] if arranged else m
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(batch, block), splits)
    dtype = x.dtype if column_scales is None else column_scales.dtype
    # Pointers that are not used still need a type.
    rows_kernel[grid](
        x,
        x if column_scales is None else column_scales,
        weight.planes,
        x if weight.scales is None else weight.scales,
        x if inner is None else inner,
        x if left is None else left,
        out,
        *(batch, m, weight.n, row_bytes, m * row_bytes),
        *(1 if weight.scales is None else weight.scales.shape[1], max(weight.group, 1)),
        *x_strides,
        *(0 if left is None else left.shape[1], out.stride(1) if arranged else 0, out.stride(-2)),
        PLANES=bits,
        STEP=weight.step,
        OFFSET=weight.offset,
        SCALING=weight.scaling,
        X_BYTE=byte_stride,
        X_SPLITS=x_splits,
        COLUMN_SCALES=column_scales is not None,
        INNER_SPLITS=0 if inner is None else inner.shape[0],
        ARRANGED=arranged,
        WAIT=overlap,
        SPLITS=splits,
        DTYPE=TYPES[dtype],
        ROWS=tile.rows,
        BYTES=tile.bytes,
        BATCH=block,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **({"launch_pdl": True} if overlap else {}),
    )
