"""Triton kernels that go down the rows of a bit-packed matrix: `x @ W`, and the derivative by the scales.

`x @ W` is what a backward pass needs (the gradient of the input), computed from the same packed bytes as the forward
product. A program owns a block of bytes, that is eight times as many columns, one sum for each bit.

Checked in Triton's interpreter and compiled for sm_80 and sm_90; not yet run on a GPU (docs/gpu.md).
"""

from __future__ import annotations

import triton
import triton.language as tl

from clisonix.kernels.planes_triton import level, load_codes, load_scales, wide


@triton.jit  # type: ignore[untyped-decorator]
def columns_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    planes_ptr,
    scales_ptr,
    out_ptr,
    batch,
    m,
    n,
    row_bytes,
    plane_bytes,
    groups,
    group,
    PLANES: tl.constexpr,
    STEP: tl.constexpr,
    OFFSET: tl.constexpr,
    SCALING: tl.constexpr,
    SPLITS: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Parts `(SPLITS, batch, n)` of `x @ W` for `x (batch, m)`: split s takes the rows of its share of blocks."""
    at = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    vectors = tl.program_id(1).to(tl.int64) * BATCH + tl.arange(0, BATCH)
    split = tl.program_id(2)
    vector_ok = vectors < batch
    share = tl.cdiv(tl.cdiv(m, ROWS), SPLITS) * ROWS
    end = tl.minimum((split + 1) * share, m)

    s0 = tl.zeros((BATCH, BYTES), dtype=tl.float32)
    s1, s2, s3, s4, s5, s6, s7 = s0, s0, s0, s0, s0, s0, s0
    for first in range(split * share, end, ROWS):
        rows = first + tl.arange(0, ROWS).to(tl.int64)
        row_ok = rows < m
        ok = row_ok[:, None] & (at < row_bytes)[None, :]
        x_ok = vector_ok[:, None] & row_ok[None, :]
        x = tl.load(x_ptr + vectors[:, None] * m + rows[None, :], mask=x_ok, other=0.0)
        if SCALING == "row":
            scales = tl.load(scales_ptr + rows, mask=row_ok, other=0.0)
            x = (x.to(tl.float32) * scales[None, :].to(tl.float32)).to(DTYPE)
        pointers = planes_ptr + rows[:, None] * row_bytes + at[None, :]
        low = load_codes(pointers, ok, plane_bytes, PLANES, 0)
        high = low
        if PLANES > 4:
            high = load_codes(pointers, ok, plane_bytes, PLANES, 4)
        if SCALING == "byte":
            scales = load_scales(scales_ptr, rows, ok, at, groups, group, 0)
        for j in tl.static_range(8):
            w = level(low, high, j, PLANES, STEP, OFFSET, DTYPE)
            if SCALING == "any":
                inside = ok & (8 * at + j < n)[None, :]
                scales = load_scales(scales_ptr, rows, inside, at, groups, group, j)
            if SCALING == "byte" or SCALING == "any":
                w = (w.to(tl.float32) * scales.to(tl.float32)).to(DTYPE)
            if j == 0:
                s0 = tl.dot(x, w, s0, input_precision="ieee")
            elif j == 1:
                s1 = tl.dot(x, w, s1, input_precision="ieee")
            elif j == 2:
                s2 = tl.dot(x, w, s2, input_precision="ieee")
            elif j == 3:
                s3 = tl.dot(x, w, s3, input_precision="ieee")
            elif j == 4:
                s4 = tl.dot(x, w, s4, input_precision="ieee")
            elif j == 5:
                s5 = tl.dot(x, w, s5, input_precision="ieee")
            elif j == 6:
                s6 = tl.dot(x, w, s6, input_precision="ieee")
            else:
                s7 = tl.dot(x, w, s7, input_precision="ieee")

    # Interleaved back to the order of the columns: bit 0 of a column's place is the last axis joined.
    even = tl.join(tl.join(s0, s4), tl.join(s2, s6))
    odd = tl.join(tl.join(s1, s5), tl.join(s3, s7))
    sums = tl.reshape(tl.join(even, odd), (BATCH, 8 * BYTES))
    columns = tl.program_id(0).to(tl.int64) * BYTES * 8 + tl.arange(0, 8 * BYTES)
    pointers = out_ptr + split.to(tl.int64) * batch * n + vectors[:, None] * n + columns[None, :]
    tl.store(pointers, sums.to(out_ptr.dtype.element_ty), mask=vector_ok[:, None] & (columns < n)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def scale_sums_kernel(  # type: ignore[no-untyped-def]
    left_ptr,
    right_ptr,
    planes_ptr,
    out_ptr,
    batch,
    m,
    n,
    row_bytes,
    plane_bytes,
    groups,
    group,
    right_bit,
    right_vector,
    PLANES: tl.constexpr,
    STEP: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
    BATCH: tl.constexpr,
):
    """`out[i, g]`: the sum over columns j of group g of `level[i, j] * (left.T @ right)[i, j]`.

    `left` is `(batch, m)` and `right` holds the entries of one bit side by side, `(8, batch, right_vector)`.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    which = tl.program_id(1).to(tl.int64)
    row_ok = rows < m
    begin = which * group
    end = tl.minimum(begin + group, n)
    totals = tl.zeros((ROWS, BYTES), dtype=tl.float32)
    for first in range(begin // 8, tl.cdiv(end, 8), BYTES):
        at = first + tl.arange(0, BYTES)
        ok = row_ok[:, None] & (at < row_bytes)[None, :]
        pointers = planes_ptr + rows[:, None] * row_bytes + at[None, :]
        low = load_codes(pointers, ok, plane_bytes, PLANES, 0)
        high = low
        if PLANES > 4:
            high = load_codes(pointers, ok, plane_bytes, PLANES, 4)
        for j in tl.static_range(8):
            products = tl.zeros((ROWS, BYTES), dtype=tl.float32)
            for start in range(0, batch, BATCH):
                vectors = start + tl.arange(0, BATCH)
                vector_ok = vectors < batch
                left_ok = row_ok[:, None] & vector_ok[None, :]
                left = tl.load(left_ptr + vectors[None, :].to(tl.int64) * m + rows[:, None], mask=left_ok, other=0.0)
                right_ok = vector_ok[:, None] & (at < right_vector)[None, :]
                places = j * wide(right_bit) + vectors[:, None].to(tl.int64) * right_vector + at[None, :]
                right = tl.load(right_ptr + places, mask=right_ok, other=0.0)
                products = tl.dot(left, right, products, input_precision="ieee")
            # The first and the last byte of a group may hold columns of its neighbours.
            column = 8 * at + j
            inside = ((column >= begin) & (column < end))[None, :]
            entries = level(low, high, j, PLANES, STEP, OFFSET, tl.float32)
            totals += tl.where(inside, products * entries, 0.0)
    sums = tl.sum(totals, axis=1).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows * groups + which, sums, mask=row_ok)
