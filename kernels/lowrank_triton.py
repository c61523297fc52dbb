"""`(x @ right.T) @ left.T` in Triton: one launch for many rows of `x`, two for few.

With many rows, a program keeps the `r` numbers of its rows on chip between the two products. With few there would be
too few programs for a device, so the first product is split over its columns, and the second adds the parts, in a
fixed order, as it reads them.

Checked in Triton's interpreter and compiled for sm_80 and sm_90, bfloat16 only compiled, because the interpreter
computes its dot products wrongly; not yet run on a GPU (docs/gpu.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from clisonix.kernels.planes_triton import Device, device_of

ROW_BLOCK = 32
COLUMN_BLOCK = 64
# Up to this many rows of x take two launches.
FEW_ROWS = 64


class ThinTile(NamedTuple):
    """Rows of a factor and columns of it in one step, warps of a program, stages of the pipeline."""

    rows: int
    columns: int
    warps: int
    stages: int


# By (most rows of x in a block, capability): not measured; `scripts/bench/liam_gpu.py --tune` prints lines to paste.
INNER_TILES = {
    (1, 80): ThinTile(16, 256, 4, 3),
    (16, 80): ThinTile(64, 64, 4, 3),
    (64, 80): ThinTile(64, 64, 4, 3),
    (1, 90): ThinTile(16, 256, 4, 3),
    (16, 90): ThinTile(64, 64, 4, 3),
    (64, 90): ThinTile(64, 64, 4, 3),
}
OUTER_TILES = {
    (1, 80): ThinTile(64, 64, 4, 2),
    (16, 80): ThinTile(64, 32, 4, 2),
    (64, 80): ThinTile(64, 32, 4, 2),
    (1, 90): ThinTile(64, 64, 4, 2),
    (16, 90): ThinTile(64, 32, 4, 2),
    (64, 90): ThinTile(64, 32, 4, 2),
}
PROGRAMS_EACH = 2
MAX_SPLITS = 32


def launch(x: Tensor, right: Tensor, left: Tensor, out: Tensor) -> None:
    """Write `(x @ right.T) @ left.T` into `out`.

    Args:
        x: `(batch, n)`, contiguous, like all four, in one of float16, bfloat16 and float32.
        right: `(r, n)`, `r` at most 256 unless `batch` is at most 64.
        left: `(m, r)`.
        out: `(batch, m)`, overwritten.
    """
    batch, n = x.shape
    m, rank = left.shape
    if batch == 0 or m == 0:
        return
    if batch <= FEW_ROWS:
        launch_outer(inner_parts(x, right), left, out)
        return
    # A tensor-core tile has at least 16 entries on each side.
    padded = max(16, triton.next_power_of_2(rank))
    lowrank_kernel[(triton.cdiv(batch, ROW_BLOCK),)](
        x, right, left, out, batch, n, m, rank, ROWS=ROW_BLOCK, COLUMNS=COLUMN_BLOCK, RANK=padded
    )


def inner_parts(
    x: Tensor, right: Tensor, *, signal: bool = False, tile: ThinTile | None = None, splits: int | None = None
) -> Tensor:
    """Parts of `x @ right.T`, to be added up.

    Args:
        x: `(batch, n)`, contiguous.
        right: `(r, n)`, contiguous.
        signal: let the next kernel start at once, if it is launched to wait for this one (sm_90).
        tile: instead of the one in `INNER_TILES`.
        splits: parts of the columns, instead of what fills the device.

    Returns:
        float32 `(splits, batch, r)`.
    """
    (batch, n), rank = x.shape, right.shape[0]
    device = device_of(x)
    block = _block(batch)
    tile = tile or INNER_TILES[block, device.capability]
    programs = triton.cdiv(rank, tile.rows) * triton.cdiv(batch, block)
    splits = splits or choose_splits(programs, n // tile.columns, device)
    parts = x.new_empty(splits, batch, rank, dtype=torch.float32)
    if parts.numel():
        inner_kernel[(triton.cdiv(rank, tile.rows), triton.cdiv(batch, block), splits)](
            x, right, parts, batch, n, rank, SIGNAL=signal, SPLITS=splits, ROWS=tile.rows, COLUMNS=tile.columns,
            BATCH=block, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return parts


def launch_outer(parts: Tensor, left: Tensor, out: Tensor, *, tile: ThinTile | None = None) -> None:
    """Write `parts.sum(0) @ left.T` into `out (batch, m)`, the sum rounded to its dtype in between."""
    splits, batch, rank = parts.shape
    block = _block(batch)
    tile = tile or OUTER_TILES[block, device_of(out).capability]
    outer_kernel[(triton.cdiv(left.shape[0], tile.rows), triton.cdiv(batch, block))](
        parts, left, out, batch, left.shape[0], rank, SPLITS=splits, ROWS=tile.rows, RANK=tile.columns,
        BATCH=block, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def choose_splits(programs: int, steps: int, device: Device) -> int:
    """Parts of a sum of `steps` steps that fill the device, no part shorter than two steps."""
    wanted = -(-PROGRAMS_EACH * device.multiprocessors // max(programs, 1))
    return max(1, min(wanted, MAX_SPLITS, steps // 2))


def _block(batch: int) -> int:
    return next((size for size in (1, 16) if batch <= size), 64)


@triton.jit  # type: ignore[untyped-decorator]
def lowrank_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    right_ptr,
    left_ptr,
    out_ptr,
    batch,
    n,
    m,
    rank,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):
    """Both products for a block of rows of `x`."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ranks = tl.arange(0, RANK)
    row_ok = rows[:, None] < batch
    rank_ok = ranks < rank

    inner = tl.zeros((ROWS, RANK), dtype=tl.float32)
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = tl.load(x_ptr + rows[:, None] * n + columns[None, :], mask=row_ok & (columns[None, :] < n), other=0.0)
        right_t = tl.load(
            right_ptr + ranks[None, :] * n + columns[:, None],
            mask=rank_ok[None, :] & (columns[:, None] < n),
            other=0.0,
        )
        # "ieee": the default for float32 is TF32, which keeps only ten bits of the factors.
        inner = tl.dot(x, right_t, inner, input_precision="ieee")

    inner = inner.to(out_ptr.dtype.element_ty)
    for start in range(0, m, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        left_t = tl.load(
            left_ptr + columns[None, :] * rank + ranks[:, None],
            mask=rank_ok[:, None] & (columns[None, :] < m),
            other=0.0,
        )
        out = tl.dot(inner, left_t, input_precision="ieee")
        tl.store(
            out_ptr + rows[:, None] * m + columns[None, :],
            out.to(out_ptr.dtype.element_ty),
            mask=row_ok & (columns[None, :] < m),
        )


@triton.jit  # type: ignore[untyped-decorator]
def inner_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    right_ptr,
    parts_ptr,
    batch,
    n,
    rank,
    SIGNAL: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Parts `(SPLITS, batch, rank)` of `x @ right.T`."""
    if SIGNAL:
        tl.extra.cuda.gdc_launch_dependents()
    ranks = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    vectors = tl.program_id(1).to(tl.int64) * BATCH + tl.arange(0, BATCH)
    split = tl.program_id(2)
    rank_ok = ranks < rank
    vector_ok = vectors < batch
    share = tl.cdiv(tl.cdiv(n, COLUMNS), SPLITS) * COLUMNS
    end = tl.minimum((split + 1) * share, n)
    sums = tl.zeros((ROWS, COLUMNS if BATCH == 1 else BATCH), dtype=tl.float32)
    for start in range(split * share, end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        column_ok = columns < n
        ok = rank_ok[:, None] & column_ok[None, :]
        v = tl.load(right_ptr + ranks[:, None] * n + columns[None, :], mask=ok, other=0.0)
        if BATCH == 1:
            x = tl.load(x_ptr + columns, mask=column_ok, other=0.0)
            sums += v.to(tl.float32) * x[None, :].to(tl.float32)
        else:
            x_ok = column_ok[:, None] & vector_ok[None, :]
            x = tl.load(x_ptr + vectors[None, :] * n + columns[:, None], mask=x_ok, other=0.0)
            sums = tl.dot(v, x, sums, input_precision="ieee")
    if BATCH == 1:
        sums = tl.sum(sums, axis=1)[:, None]
    pointers = parts_ptr + (split.to(tl.int64) * batch + vectors[None, :]) * rank + ranks[:, None]
    tl.store(pointers, sums, mask=rank_ok[:, None] & vector_ok[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def outer_kernel(  # type: ignore[no-untyped-def]
    parts_ptr,
    left_ptr,
    out_ptr,
    batch,
    m,
    rank,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    BATCH: tl.constexpr,
):
    """`parts.sum(0) @ left.T` for parts `(SPLITS, batch, rank)`."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    vectors = tl.program_id(1).to(tl.int64) * BATCH + tl.arange(0, BATCH)
    row_ok = rows < m
    vector_ok = vectors < batch
    sums = tl.zeros((ROWS, BATCH), dtype=tl.float32)
    for start in range(0, rank, RANK):
        ranks = start + tl.arange(0, RANK)
        rank_ok = ranks < rank
        u_ok = row_ok[:, None] & rank_ok[None, :]
        u = tl.load(left_ptr + rows[:, None] * rank + ranks[None, :], mask=u_ok, other=0.0)
        t_ok = rank_ok[:, None] & vector_ok[None, :]
        pointers = parts_ptr + vectors[None, :] * rank + ranks[:, None]
        t = tl.load(pointers, mask=t_ok, other=0.0)
        for part in tl.static_range(1, SPLITS):
            t += tl.load(pointers + part * batch * rank, mask=t_ok, other=0.0)
        t = t.to(out_ptr.dtype.element_ty)
        if BATCH == 1:
            sums += tl.sum(u.to(tl.float32) * tl.trans(t).to(tl.float32), axis=1)[:, None]
        else:
            sums = tl.dot(u, t, sums, input_precision="ieee")
    pointers = out_ptr + vectors[None, :] * m + rows[:, None]
    tl.store(pointers, sums.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & vector_ok[None, :])
