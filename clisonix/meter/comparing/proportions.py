"""95 % intervals for the difference of two proportions, good with few disagreements where resampling is too narrow.

Paired: the score interval of Tango (1998), "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design". Independent: Newcombe (1998), method 10, from two Wilson intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from clisonix.errors import ClisonixError
from clisonix.meter.comparing.intervals import Z95, wilson


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """Difference of the proportions of right answers on the same `n` questions, and its interval.

    Args:
        gained: questions that only the second side got right.
        lost: questions that only the first side got right.
        n: questions.

    Returns:
        (gained - lost) / n, lower and upper end.

    Raises:
        ClisonixError: the counts do not fit.
    """
    if n < 1 or gained < 0 or lost < 0 or gained + lost > n:
        raise ClisonixError(f"a paired difference needs gained + lost <= n; given {gained} + {lost} of {n}")
    centre = (gained - lost) / n

    def score(delta: float) -> float:
        # The variance at a true difference of delta, with the nuisance parameter at its likelihood's maximum.
        b = (2 * n - gained + lost) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        spread = n * (2 * share + delta * (1 - delta))
        distance = gained - lost - n * delta
        if spread <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(spread)

    low = -1.0 if score(-1.0) < Z95 else _crossing(lambda x: score(x) - Z95, -1.0, centre)
    high = 1.0 if score(1.0) > -Z95 else _crossing(lambda x: score(x) + Z95, centre, 1.0)
    return centre, low, high


def independent_difference(right_a: int, n_a: int, right_b: int, n_b: int) -> tuple[float, float, float]:
    """Difference of two independent proportions, b - a, and its interval.

    Raises:
        ClisonixError: a count does not fit; see `wilson`.
    """
    (low_a, high_a), (low_b, high_b) = wilson(right_a, n_a), wilson(right_b, n_b)
    p_a, p_b = right_a / n_a, right_b / n_b
    centre = p_b - p_a
    return centre, centre - math.hypot(p_b - low_b, high_a - p_a), centre + math.hypot(high_b - p_b, p_a - low_a)


def _crossing(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function passes zero."""
    for _ in range(60):
        middle = (low + high) / 2
        if f(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
