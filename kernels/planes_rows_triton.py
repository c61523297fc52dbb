"""The Triton kernel for `x @ W.T` with bit-packed `W`: signs, three levels, integers of 1 to 8 bits.

It serves four products, chosen at compile time: the plain one, the one with a low-rank term added at the end, and
both halves of `diag(a) S1 diag(b) S2 diag(c)`. Splits over the columns write partial sums that are added in a fixed
order, so the same shapes give the same bits on every run.

Checked in Triton's interpreter and compiled for sm_80 and sm_90; not yet run on a GPU (docs/gpu.md).
"""

from __future__ import annotations

import triton
import triton.language as tl

from clisonix.kernels.planes_triton import level, load_codes, load_scales, wide


@triton.jit  # type: ignore[untyped-decorator]
def load_vectors(  # type: ignore[no-untyped-def]
    x_ptr,
    column_ptr,
    vectors,
    vector_ok,
    at,
    n,
    bit_stride,
    vector_stride,
    split_stride,
    J: tl.constexpr,
    BYTE_STRIDE: tl.constexpr,
    SPLITS: tl.constexpr,
    COLUMN_SCALES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Entries `8 * at + J` of some vectors: the sum of SPLITS partial ones, times column scales.

    As `(vectors, at)`, or `(at, vectors)` when TRANSPOSED. With BYTE_STRIDE 1 the entries of one bit lie side by side
    and are padded with zeros up to the stride between vectors; with 8 they lie in their natural order.
    """
    column_ok = at < vector_stride if BYTE_STRIDE == 1 else 8 * at + J < n
    base = x_ptr + J * wide(bit_stride)
    if TRANSPOSED:
        pointers = base + vectors[None, :] * vector_stride + at[:, None] * BYTE_STRIDE
        ok = column_ok[:, None] & vector_ok[None, :]
    else:
        pointers = base + vectors[:, None] * vector_stride + at[None, :] * BYTE_STRIDE
        ok = column_ok[None, :] & vector_ok[:, None]
    x = tl.load(pointers, mask=ok, other=0.0)
    for split in tl.static_range(1, SPLITS):
        x += tl.load(pointers + split * split_stride, mask=ok, other=0.0)
    if COLUMN_SCALES:
        scales = tl.load(column_ptr + 8 * at + J, mask=8 * at + J < n, other=0.0).to(tl.float32)
        x = x.to(tl.float32) * (scales[:, None] if TRANSPOSED else scales[None, :])
    return x


@triton.jit  # type: ignore[untyped-decorator]
def rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    column_ptr,
    planes_ptr,
    scales_ptr,
    inner_ptr,
    left_ptr,
    out_ptr,
    batch,
    m,
    n,
    row_bytes,
    plane_bytes,
    groups,
    group,
    x_bit,
    x_vector,
    x_split,
    rank,
    out_bit,
    out_vector,
    PLANES: tl.constexpr,
    STEP: tl.constexpr,
    OFFSET: tl.constexpr,
    SCALING: tl.constexpr,
    X_BYTE: tl.constexpr,
    X_SPLITS: tl.constexpr,
    COLUMN_SCALES: tl.constexpr,
    INNER_SPLITS: tl.constexpr,
    ARRANGED: tl.constexpr,
    WAIT: tl.constexpr,
    SPLITS: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Parts `(SPLITS, batch, m)` of the product; arranged by bits, `(SPLITS, 8, batch, out_vector)`, if ARRANGED."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    vectors = tl.program_id(1).to(tl.int64) * BATCH + tl.arange(0, BATCH)
    split = tl.program_id(2)
    row_ok = rows < m
    vector_ok = vectors < batch
    share = tl.cdiv(tl.cdiv(row_bytes, BYTES), SPLITS) * BYTES
    end = tl.minimum((split + 1) * share, row_bytes)

    # One vector is multiplied entry by entry; more go through the tensor cores.
    sums = tl.zeros((ROWS, BYTES if BATCH == 1 else BATCH), dtype=tl.float32)
    for first in range(split * share, end, BYTES):
        at = first + tl.arange(0, BYTES)
        ok = row_ok[:, None] & (at < row_bytes)[None, :]
        pointers = planes_ptr + rows[:, None] * row_bytes + at[None, :]
        low = load_codes(pointers, ok, plane_bytes, PLANES, 0)
        high = low
        if PLANES > 4:
            high = load_codes(pointers, ok, plane_bytes, PLANES, 4)
        if SCALING == "byte":
            scales = load_scales(scales_ptr, rows, ok, at, groups, group, 0)
        for j in tl.static_range(8):
            x = load_vectors(
                x_ptr, column_ptr, vectors, vector_ok, at, n, x_bit, x_vector, x_split,
                j, X_BYTE, X_SPLITS, COLUMN_SCALES, BATCH > 1,
            )  # fmt: skip
            if BATCH == 1:
                w = level(low, high, j, PLANES, STEP, OFFSET, tl.float32)
            else:
                w = level(low, high, j, PLANES, STEP, OFFSET, DTYPE)
            if SCALING == "any":
                # At the end of a row a byte has columns that have no scale.
                inside = ok & (8 * at + j < n)[None, :]
                scales = load_scales(scales_ptr, rows, inside, at, groups, group, j)
            if SCALING == "byte" or SCALING == "any":
                # Rounded as the entries of a dense matrix would be.
                w = (w.to(tl.float32) * scales.to(tl.float32)).to(DTYPE)
            if BATCH == 1:
                sums += w.to(tl.float32) * x.to(tl.float32)
            else:
                sums = tl.dot(w, x.to(DTYPE), sums, input_precision="ieee")

    if BATCH == 1:
        sums = tl.sum(sums, axis=1)[:, None]
    if SCALING == "row":
        sums *= tl.load(scales_ptr + rows, mask=row_ok, other=0.0)[:, None].to(tl.float32)
    if INNER_SPLITS > 0:
        if WAIT:
            # The kernel that makes `inner` runs beside the loop above.
            tl.extra.cuda.gdc_wait()
        if split == 0:
            for first in range(0, rank, 32):
                ranks = first + tl.arange(0, 32)
                rank_ok = ranks < rank
                u_ok = row_ok[:, None] & rank_ok[None, :]
                u = tl.load(left_ptr + rows[:, None] * rank + ranks[None, :], mask=u_ok, other=0.0)
                if BATCH == 1:
                    t_ok = vector_ok[:, None] & rank_ok[None, :]
                    t_pointers = inner_ptr + vectors[:, None] * rank + ranks[None, :]
                else:
                    t_ok = rank_ok[:, None] & vector_ok[None, :]
                    t_pointers = inner_ptr + vectors[None, :] * rank + ranks[:, None]
                t = tl.load(t_pointers, mask=t_ok, other=0.0)
                for part in tl.static_range(1, INNER_SPLITS):
                    t += tl.load(t_pointers + part * batch * rank, mask=t_ok, other=0.0)
                # Rounded as the result of a product on its own would be.
                t = t.to(DTYPE)
                if BATCH == 1:
                    sums += tl.sum(u.to(tl.float32) * t.to(tl.float32), axis=1)[:, None]
                else:
                    sums = tl.dot(u.to(DTYPE), t, sums, input_precision="ieee")

    out_rows = rows
    if ARRANGED:
        # Rows of padding are written too, as zeros: the next product reads them.
        sums = tl.where(row_ok[:, None], sums, 0.0)
        row_ok = rows < 8 * out_vector
        out_rows = (rows % 8) * out_bit + rows // 8
    pointers = out_ptr + split.to(tl.int64) * batch * out_vector * (8 if ARRANGED else 1)
    pointers += vectors[None, :] * out_vector + out_rows[:, None]
    tl.store(pointers, sums.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & vector_ok[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def add_kernel(parts_ptr, out_ptr, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """`out = parts.sum(0)` for parts `(SPLITS, size)`, added in their order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * size + at, mask=at < size, other=0.0)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)
