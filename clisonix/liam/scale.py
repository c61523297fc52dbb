"""Whether squares of numbers stay within the range of float32, and what to divide by where they do not."""

from __future__ import annotations

import math

LARGEST, SMALLEST = 2.0**40, 2.0**-40


def safe(size: float) -> bool:
    """Whether sums of squares of entries up to `size` neither overflow nor vanish."""
    return size == 0.0 or SMALLEST < size < LARGEST


def scale_for(size: float) -> float:
    """What to divide entries up to `size` by: a power of two, so that it does not round, or 1 where all is well."""
    return 1.0 if safe(size) else 2.0 ** math.frexp(size)[1]
