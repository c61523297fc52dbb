"""How uncertain a mean is when neighbouring values resemble one another.

Epochs of one run drift together: a machine that warms up slows several in a row. Taking them as independent makes
the interval too narrow, and so does resampling them. Here the values are taken as a first-order autoregression:
its coefficient, estimated from all series together and corrected for the bias of short ones (Marriott and Pope
1954), gives the number of independent values that would be as informative (Zwiers and von Storch 1995). A negative
coefficient counts as none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

FEWEST = 5
"""Below this many values the coefficient cannot be estimated, so there is no honest variance."""
MOST_ALIKE = 0.9
"""The coefficient is held below this: nearer to 1 a series is a drift, not noise round a mean."""


def resemblance(series: Sequence[Sequence[float]]) -> float:
    """How much neighbours resemble each other: the autocorrelation at one step, 0 to `MOST_ALIKE`.

    Args:
        series: each in order of time, at least `FEWEST` values; they need not share a mean or a scale.
    """
    along, squares = 0.0, 0.0
    for values in series:
        steps = _steps(values)
        scale = math.fsum(step * step for step in steps)
        if scale > 0:
            # Each series counts by its length, whatever its unit.
            along += len(values) * math.fsum(x * y for x, y in pairwise(steps)) / scale
            squares += len(values)
    if squares == 0:
        return 0.0
    n = sum(map(len, series)) / len(series)
    return min(max((n * along / squares + 1) / (n - 4), 0.0), MOST_ALIKE)


def variance_of_mean(values: Sequence[float], alike: float) -> tuple[float, float]:
    """Variance of the mean of a short, possibly autocorrelated series.

    Args:
        values: in order of time, at least `FEWEST`.
        alike: see `resemblance`.

    Returns:
        The variance, and the degrees of freedom that go with it.
    """
    n = len(values)
    squares = math.fsum(step * step for step in _steps(values))
    repeats = (1 + alike) / (1 - alike)
    informative = min(max(n / repeats, 2.0), float(n))
    # Values that resemble each other also scatter less round their own mean.
    shrunk = max(1 - (repeats - 1) / n, 0.3)
    return squares / (n - 1) / shrunk / informative, max(informative - 1, 1.0)


def _steps(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    steps = [value - mean for value in values]
    # Equal values up to rounding have no spread, and ratios of rounding errors mean nothing.
    return [0.0 if abs(step) <= 1e-12 * abs(mean) else step for step in steps]
