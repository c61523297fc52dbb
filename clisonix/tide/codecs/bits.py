"""Numbers of a few bits, packed without gaps. Integer arithmetic only, so every machine reads the same."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Floats = NDArray[np.float32]


def pack(codes: NDArray[np.integer], bits: int) -> bytes:
    """Each code in `bits` bits, most significant first."""
    if bits == 0 or codes.size == 0:
        return b""
    planes = (codes[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.astype(np.uint8)).tobytes()


def unpack(data: bytes, bits: int, count: int) -> Places:
    """The opposite of `pack`."""
    if bits == 0 or count == 0:
        return np.zeros(count, np.int64)
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=bits * count).reshape(count, bits)
    codes = np.zeros(count, np.int64)
    for index in range(bits):
        codes = (codes << 1) | planes[:, index]
    return codes


def packed_bytes(bits: int, count: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-bits * count // 8)


def rice_bits(size: int, count: int) -> int:
    """The number of low bits that makes `count` places out of `size` shortest (Rice 1979)."""
    return max(0, int(math.log2(max(1.0, 0.69 * size / max(count, 1)))))


def pack_places(places: Places, low: int) -> tuple[bytes, bytes]:
    """Increasing places as Rice-coded gaps: the low bits of each, and the rest of each in unary."""
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum((gaps >> low) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 1
    return pack(gaps & ((1 << low) - 1), low), np.packbits(unary).tobytes()


def unpack_places(lows: bytes, unary: bytes, low: int, count: int) -> Places:
    """The opposite of `pack_places`.

    Raises:
        ValueError: the unary part does not hold `count` numbers.
    """
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(unary, np.uint8)))
    if len(ends) != count:
        raise ValueError(f"{len(ends)} places instead of {count}")
    highs = np.diff(ends, prepend=-1) - 1
    return np.cumsum((highs << low) + unpack(lows, low, count) + 1) - 1


def to_short(values: NDArray[np.floating]) -> bytes:
    """Floats as bfloat16, rounded to nearest."""
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16).astype("<u2").tobytes()


def from_short(data: bytes) -> Floats:
    """The opposite of `to_short`; exact."""
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
