"""`alpha * x @ x.T + beta * c` for a stack of matrices in Triton, computed by the lower triangle and mirrored.

Checked in Triton's interpreter and compiled for sm_80 and sm_90, bfloat16 only compiled, because the interpreter
computes its dot products wrongly; not yet run on a GPU (docs/gpu.md).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from clisonix.kernels.planes_triton import device_of


class SquareTile(NamedTuple):
    """Rows and columns of a tile of the result, inner columns in one step, warps, stages of the pipeline."""

    rows: int
    inner: int
    warps: int
    stages: int


# By (least rows of a matrix, capability): small matrices need small tiles to fill the device. Not measured;
# `scripts/bench/liam_gpu.py --tune` prints lines to paste here.
SQUARE_TILES = {
    (0, 80): SquareTile(32, 32, 4, 3),
    (128, 80): SquareTile(64, 64, 4, 3),
    (512, 80): SquareTile(128, 32, 8, 3),
    (0, 90): SquareTile(32, 64, 4, 3),
    (128, 90): SquareTile(64, 64, 4, 4),
    (512, 90): SquareTile(128, 64, 8, 3),
}


def launch(
    x: Tensor, c: Tensor | None, out: Tensor, alpha: float, beta: float, tile: SquareTile | None = None
) -> None:
    """Write `alpha * x @ x.mT + beta * c` into `out`.

    Args:
        x: `(b, m, k)` of any strides, float16, bfloat16 or float32.
        c: `(b, m, m)`, contiguous and symmetric, of the dtype of `x`, or None; only its lower triangle is read.
        out: `(b, m, m)`, contiguous, overwritten.
        alpha: factor of the product.
        beta: factor of `c`.
        tile: instead of the one in `SQUARE_TILES`.
    """
    stack, m, k = x.shape
    if out.numel() == 0:
        return
    capability = device_of(x).capability
    tile = tile or SQUARE_TILES[max(least for least, _ in SQUARE_TILES if least <= m), capability]
    blocks = triton.cdiv(m, tile.rows)
    symmetric_kernel[(blocks, blocks, stack)](
        x, out if c is None else c, out, m, k, *x.stride(), alpha, beta, ADD=c is not None, ROWS=tile.rows,
        INNER=tile.inner, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def symmetric_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    c_ptr,
    out_ptr,
    m,
    k,
    x_matrix,
    x_row,
    x_column,
    alpha,
    beta,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
):
    """One tile on or below the diagonal, and its mirror image."""
    i = tl.program_id(0)
    j = tl.program_id(1)
    if j > i:
        return
    matrix = tl.program_id(2).to(tl.int64)
    rows = i.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = j.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok = (rows < m)[:, None]
    column_ok = (columns < m)[None, :]
    x_ptr += matrix * x_matrix
    sums = tl.zeros((ROWS, ROWS), dtype=tl.float32)
    for start in range(0, k, INNER):
        inner = start + tl.arange(0, INNER).to(tl.int64)
        left_ok = row_ok & (inner < k)[None, :]
        left = tl.load(x_ptr + rows[:, None] * x_row + inner[None, :] * x_column, mask=left_ok, other=0.0)
        right_ok = column_ok & (inner < k)[:, None]
        right = tl.load(x_ptr + columns[None, :] * x_row + inner[:, None] * x_column, mask=right_ok, other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    sums *= alpha
    place = matrix * m * m
    if ADD:
        c = tl.load(c_ptr + place + rows[:, None] * m + columns[None, :], mask=row_ok & column_ok, other=0.0)
        sums += beta * c.to(tl.float32)
    result = sums.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place + rows[:, None] * m + columns[None, :], result, mask=row_ok & column_ok)
    if j < i:
        tl.store(out_ptr + place + columns[None, :] * m + rows[:, None], result, mask=row_ok & column_ok)
