"""What the Triton kernels for bit-packed matrices share: how packed bytes become numbers.

A block of bytes never becomes a dense tile. Bit `j` of all its bytes is one tile, which meets the entries of a vector
at columns `j`, `8 + j`, `16 + j`, ..., so that nothing has to change places between the lanes of a warp.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Packed(NamedTuple):
    """The entry at (i, j) is `scales[i, j // group] * (step * code[i, j] - offset)`.

    `planes` is uint8 `(bits, m, ceil(n / 8))`, contiguous; `scales` is `(m, groups)`, or None for ones.
    """

    planes: Tensor
    scales: Tensor | None
    n: int
    group: int
    step: int
    offset: int

    @property
    def scaling(self) -> str:
        """How scales meet weights: none, one a row, one for each byte of columns, or each its own."""
        if self.scales is None:
            return "none"
        return "row" if self.group >= self.n else "byte" if self.group % 8 == 0 else "any"


class Tile(NamedTuple):
    """Rows and bytes of the block of packed weights in one step, warps of a program, stages of the pipeline."""

    rows: int
    bytes: int
    warps: int
    stages: int


class Device(NamedTuple):
    """What launches depend on: the capability times ten (a key of the tables) and the multiprocessors."""

    capability: int
    multiprocessors: int


def device_of(tensor: Tensor) -> Device:
    """The device of `tensor`; a stand-in on the CPU, where only the interpreter runs kernels."""
    if not tensor.is_cuda:
        return Device(80, 4)
    major = torch.cuda.get_device_capability(tensor.device)[0]
    count = torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return Device(90 if major >= 9 else 80, count)


@triton.jit
def wide(number):  # type: ignore[no-untyped-def]
    """A 64-bit `(1, 1)` of a number, whose multiples may not fit the 32 bits that a kernel's arguments have."""
    return tl.zeros((1, 1), dtype=tl.int64) + number


@triton.jit  # type: ignore[untyped-decorator]
def load_codes(pointers, ok, plane_bytes, PLANES: tl.constexpr, FIRST: tl.constexpr):  # type: ignore[no-untyped-def]
    """Up to four planes of a block of bytes, from plane FIRST on, side by side in the bytes of an int32."""
    codes = tl.load(pointers + FIRST * wide(plane_bytes), mask=ok, other=0).to(tl.int32)
    for plane in tl.static_range(1, PLANES - FIRST if PLANES - FIRST < 4 else 4):
        packed = tl.load(pointers + (FIRST + plane) * wide(plane_bytes), mask=ok, other=0)
        codes |= packed.to(tl.int32) << (8 * plane)
    return codes


@triton.jit  # type: ignore[untyped-decorator]
def _shifted(number, base: tl.constexpr, STEP: tl.constexpr, OFFSET: tl.constexpr):  # type: ignore[no-untyped-def]
    """`STEP * (number - base) - OFFSET`, exact in every step, in one operation where STEP is 1."""
    return number - (base + OFFSET) if STEP == 1 else (number - base) * STEP - OFFSET


@triton.jit  # type: ignore[untyped-decorator]
def level(  # type: ignore[no-untyped-def]
    low, high, J: tl.constexpr, PLANES: tl.constexpr, STEP: tl.constexpr, OFFSET: tl.constexpr, DTYPE: tl.constexpr
):
    """`STEP * code - OFFSET` of bit J of each byte, in DTYPE."""
    if PLANES == 1 and STEP == 2 and OFFSET == 1:
        # A sign is the sign bit of one: a shift and one three-input operation.
        if DTYPE == tl.float32:  # noqa: SIM300
            entry = (((low << (31 - J)) & -2147483648) ^ -1082130432).to(tl.float32, bitcast=True)
        else:
            ONE: tl.constexpr = -17408 if DTYPE == tl.float16 else -16512  # noqa: SIM300
            entry = (((low << (15 - J)) & 32768) ^ ONE).to(tl.int16).to(DTYPE, bitcast=True)
    else:
        if PLANES <= 2:
            code = (low >> J) & 1
            if PLANES == 2:
                code |= (low >> (7 + J)) & 2
        else:
            # The bits J of four bytes are gathered next to each other by one multiplication without carries.
            code = ((((low >> J) & 0x01010101) * 0x01020408) >> 24) & 15
            if PLANES > 4:
                code |= ((((high >> J) & 0x01010101) * 0x01020408) >> 20) & 240
        # Below a power of two whose last mantissa bit is worth 1, a code is a number without being converted.
        if DTYPE == tl.float16:  # noqa: SIM300 - constants of Triton
            entry = _shifted((code | 0x6400).to(tl.int16).to(tl.float16, bitcast=True), 1024, STEP, OFFSET)
        elif DTYPE == tl.bfloat16 and PLANES < 8:  # noqa: SIM300
            entry = _shifted((code | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True), 128, STEP, OFFSET)
        else:
            entry = _shifted((code | 0x4B000000).to(tl.float32, bitcast=True), 8388608, STEP, OFFSET).to(DTYPE)
    return entry


@triton.jit  # type: ignore[untyped-decorator]
def load_scales(  # type: ignore[no-untyped-def]
    scales_ptr, rows, ok, at, groups, group, J: tl.constexpr
):
    """The scales of column `8 * at + J` of each row."""
    return tl.load(scales_ptr + rows[:, None] * groups + ((8 * at + J) // group)[None, :], mask=ok, other=0.0)
