"""How many bytes a form takes, and how large a rank fits into so many."""

from __future__ import annotations

import math
from collections.abc import Callable

from clisonix.errors import ClisonixError

Shape = tuple[int, int]


def planes_nbytes(shape: Shape, bits: int) -> int:
    """Bytes of `bits` bits for each entry, every row packed by itself."""
    return bits * shape[0] * -(-shape[1] // 8)


def double_binary_nbytes(shape: Shape, rank: int, itemsize: int) -> int:
    """Bytes of two factors of signs, and of the sizes before, between and after them."""
    m, n = shape
    return planes_nbytes((m, rank), 1) + planes_nbytes((rank, n), 1) + itemsize * (m + rank + n)


def packed_lowrank_nbytes(shape: Shape, rank: int, factor_bits: int, itemsize: int) -> int:
    """Bytes of two factors of integers, with one scale for each row of either."""
    m, n = shape
    return planes_nbytes((m, rank), factor_bits) + planes_nbytes((rank, n), factor_bits) + itemsize * (m + rank)


def budget_nbytes(shape: Shape, bits: float) -> int:
    """Whole bytes in `bits` bits for each entry.

    Raises:
        ClisonixError: `bits` is negative or not finite.
    """
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not math.isfinite(bits) or bits < 0:
        raise ClisonixError(f"bits={bits!r} is no budget for a weight {shape}; give a number that is not negative.")
    return math.floor(bits * shape[0] * shape[1] / 8)


def largest_rank(nbytes_of: Callable[[int], int], nbytes: int, highest: int) -> int:
    """The largest rank up to `highest` with `nbytes_of(rank)`, which rises, within `nbytes`; 0 where none is."""
    low, high = 0, highest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if nbytes_of(middle) <= nbytes else (low, middle)
    return low


def rank_for(
    rank: int | None, bits: float | None, shape: Shape, nbytes_of: Callable[[int], int], highest: int | None = None
) -> int:
    """The rank asked for, or the largest that takes at most `bits` for each entry, but no more than `highest`.

    Raises:
        ClisonixError: not exactly one of the two is given, it is out of range, or rank 1 takes more than `bits`.
    """
    if (rank is None) == (bits is None):
        raise ClisonixError(f"rank={rank} and bits={bits} were given for a weight {shape}; give exactly one of them.")
    if bits is not None:
        nbytes = budget_nbytes(shape, bits)
        # Every rank takes at least a byte.
        rank = largest_rank(nbytes_of, nbytes, nbytes if highest is None else highest)
        if rank < 1:
            raise ClisonixError(
                f"bits={bits} is a budget of {nbytes} bytes for a weight {shape}, but rank 1 takes {nbytes_of(1)}; "
                f"give {bits_text(nbytes_of(1), shape)} or more."
            )
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ClisonixError(f"rank={rank!r} is no rank for a weight {shape}; give a whole number of at least 1.")
    return rank if highest is None else min(rank, highest)


def bits_text(nbytes: int, shape: Shape) -> str:
    """`nbytes` in bits for each entry, rounded up: what to ask for."""
    each = 8 * nbytes / max(shape[0] * shape[1], 1)
    return f"{math.ceil(each * 1000) / 1000:g} bits"
