"""Products with a matrix in block compressed rows, in Triton, and the derivative by its blocks.

A program owns a row of blocks (for `x @ A`, a column of them) and a block of rows of `x`, and goes through the blocks
in their order, so nothing is added atomically. Going down columns needs the places by column, which `by_column` makes
once.

Checked in Triton's interpreter and compiled for sm_80 and sm_90; not yet run on a GPU (docs/gpu.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from clisonix.kernels.planes_triton import device_of

SIZES = (16, 32, 64)


class BlockTile(NamedTuple):
    """Most rows of x in a block, warps of a program, stages of the pipeline."""

    batch: int
    warps: int
    stages: int


# By (size of a block, capability): not measured; `scripts/bench/liam_gpu.py --tune` prints lines to paste here.
BLOCK_TILES = {
    (16, 80): BlockTile(64, 4, 3),
    (32, 80): BlockTile(64, 4, 3),
    (64, 80): BlockTile(64, 4, 3),
    (16, 90): BlockTile(64, 4, 3),
    (32, 90): BlockTile(64, 4, 3),
    (64, 90): BlockTile(64, 4, 3),
}


def by_column(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same places, column by column.

    Args:
        crow: `(block rows + 1,)`, where each row of blocks begins.
        col: `(nnz,)`, the column of each block.
        columns: block columns.

    Returns:
        `(columns + 1,)`, where each column begins; `(nnz,)`, the row of each block; `(nnz,)`, its place in `col`. All
        of the type of `crow`.
    """
    rows = torch.arange(crow.shape[0] - 1, device=crow.device).repeat_interleave(crow.diff().long())
    place = torch.argsort(col, stable=True)
    counts = torch.bincount(col.long(), minlength=columns).cumsum(0)
    begins = torch.cat([counts.new_zeros(1), counts])
    return begins.to(crow.dtype), rows[place].to(crow.dtype), place.to(crow.dtype)


def multiply(
    x: Tensor,
    values: Tensor,
    begins: Tensor,
    other: Tensor,
    place: Tensor | None,
    size: int,
    *,
    tile: BlockTile | None = None,
) -> Tensor:
    """`x @ A.T`, or `x @ A` when the places are those of `by_column`.

    Args:
        x: `(batch, k)`, contiguous, of the dtype of `values`.
        values: `(nnz, b, b)`, contiguous, b in `SIZES`; what reaches over the edge of the matrix does not count.
        begins: where each row of blocks begins; each column, with `place`.
        other: the column of each block; the row, with `place`.
        place: which block of `values` is meant; their order if None.
        size: columns of the result.
        tile: instead of the one in `BLOCK_TILES`.

    Returns:
        `(batch, size)` in the dtype of `x`.
    """
    batch, b = x.shape[0], values.shape[-1]
    out = x.new_empty(batch, size)
    if out.numel() == 0:
        return out
    tile = tile or BLOCK_TILES[b, device_of(x).capability]
    rows = max(16, min(tile.batch, triton.next_power_of_2(batch)))
    multiply_kernel[(triton.cdiv(size, b), triton.cdiv(batch, rows))](
        x, values, begins, other, other if place is None else place, out, batch, x.shape[1], size,
        BY_COLUMN=place is not None, B=b, BATCH=rows, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def sample(left: Tensor, right: Tensor, rows: Tensor, col: Tensor, b: int) -> Tensor:
    """The blocks of `left.T @ right` at some places: `(batch, m)`, `(batch, n)` to `(nnz, b, b)`, zero past the edge.

    Args:
        left: contiguous, of the dtype of `right`.
        right: contiguous.
        rows: `(nnz,)`, the block row of each place.
        col: `(nnz,)`, its block column.
        b: size of a block.
    """
    out = left.new_empty(col.shape[0], b, b)
    if out.numel():
        tile = BLOCK_TILES[b, device_of(left).capability]
        batch, m, n = left.shape[0], left.shape[1], right.shape[1]
        sample_kernel[(col.shape[0],)](
            left, right, rows, col, out, batch, m, n, B=b, BATCH=32, num_warps=tile.warps, num_stages=tile.stages
        )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def multiply_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    values_ptr,
    begins_ptr,
    other_ptr,
    place_ptr,
    out_ptr,
    batch,
    x_size,
    size,
    BY_COLUMN: tl.constexpr,
    B: tl.constexpr,
    BATCH: tl.constexpr,
):
    """One row (column) of blocks times a block of rows of `x`."""
    line = tl.program_id(0).to(tl.int64)
    vectors = tl.program_id(1).to(tl.int64) * BATCH + tl.arange(0, BATCH)
    vector_ok = vectors < batch
    inside = tl.arange(0, B)
    sums = tl.zeros((BATCH, B), dtype=tl.float32)
    # 64 bits wide, because the numbers of all blocks are counted by it.
    begin = tl.load(begins_ptr + line).to(tl.int64)
    end = tl.load(begins_ptr + line + 1).to(tl.int64)
    for index in range(begin, end):
        columns = tl.load(other_ptr + index).to(tl.int64) * B + inside
        # Past the edge both are zero: what a block holds there does not count, not even a NaN.
        column_ok = columns < x_size
        x_ok = vector_ok[:, None] & column_ok[None, :]
        x = tl.load(x_ptr + vectors[:, None] * x_size + columns[None, :], mask=x_ok, other=0.0)
        if BY_COLUMN:
            block = values_ptr + tl.load(place_ptr + index).to(tl.int64) * B * B
            a = tl.load(block + inside[:, None] * B + inside[None, :], mask=column_ok[:, None], other=0.0)
        else:
            block = values_ptr + index * B * B
            a = tl.load(block + inside[None, :] * B + inside[:, None], mask=column_ok[:, None], other=0.0)
        sums = tl.dot(x, a, sums, input_precision="ieee")
    columns = line * B + inside
    pointers = out_ptr + vectors[:, None] * size + columns[None, :]
    tl.store(pointers, sums.to(out_ptr.dtype.element_ty), mask=vector_ok[:, None] & (columns < size)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def sample_kernel(  # type: ignore[no-untyped-def]
    left_ptr,
    right_ptr,
    rows_ptr,
    col_ptr,
    out_ptr,
    batch,
    m,
    n,
    B: tl.constexpr,
    BATCH: tl.constexpr,
):
    """One block of `left.T @ right`."""
    index = tl.program_id(0).to(tl.int64)
    inside = tl.arange(0, B)
    rows = tl.load(rows_ptr + index).to(tl.int64) * B + inside
    columns = tl.load(col_ptr + index).to(tl.int64) * B + inside
    row_ok = rows < m
    column_ok = columns < n
    sums = tl.zeros((B, B), dtype=tl.float32)
    for start in range(0, batch, BATCH):
        vectors = start + tl.arange(0, BATCH).to(tl.int64)
        vector_ok = vectors < batch
        left_ok = row_ok[:, None] & vector_ok[None, :]
        left = tl.load(left_ptr + vectors[None, :] * m + rows[:, None], mask=left_ok, other=0.0)
        right_ok = vector_ok[:, None] & column_ok[None, :]
        right = tl.load(right_ptr + vectors[:, None] * n + columns[None, :], mask=right_ok, other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    pointers = out_ptr + index * B * B + inside[:, None] * B + inside[None, :]
    tl.store(pointers, sums.to(out_ptr.dtype.element_ty))
