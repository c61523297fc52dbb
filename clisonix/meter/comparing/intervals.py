"""95 % intervals of proportions and means, and the t distribution that these and all comparisons rest on.

Wilson (1927) for proportions; Student's t for means. The distribution is computed here because
scipy would be a heavy dependency for two functions; the incomplete beta function follows the continued fraction
DLMF 8.17.22 (https://dlmf.nist.gov/8.17#v).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from clisonix.errors import ClisonixError

Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion.

    Args:
        successes: how many of `n`.
        n: number of trials.

    Raises:
        ClisonixError: not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ClisonixError(f"a proportion needs 0 <= successes <= n and n > 0; given {successes} of {n}")
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # At 0 and n of n the bound is exact; rounding must not push the estimate outside.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def t_quantile(p: float, freedom: float) -> float:
    """The value below which Student's t lies with probability `p`.

    Args:
        p: between 0 and 1, both excluded.
        freedom: degrees of freedom, > 0, not necessarily whole.

    Raises:
        ClisonixError: an argument is out of range.
    """
    if not 0 < p < 1 or not freedom > 0:
        raise ClisonixError(f"t_quantile needs 0 < p < 1 and freedom > 0; given p={p}, freedom={freedom}")
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    if p == 0.5:
        return 0.0
    low, high = 0.0, 1.0
    # Bisect on t/(1+t), which is bounded however heavy the tail; Newton's steps then find the last digits.
    for _ in range(16):
        middle = (low + high) / 2
        if t_above(middle / (1 - middle), freedom) > 1 - p:
            low = middle
        else:
            high = middle
    t = (low + high) / (2 - low - high)
    for _ in range(50):
        step = (t_above(t, freedom) - (1 - p)) / _density(t, freedom)
        t = max(t + step, t / 2)
        if abs(step) <= 1e-15 * t:
            break
    return t


def t_above(t: float, freedom: float) -> float:
    """The probability that Student's t exceeds `t`.

    Args:
        t: any finite number.
        freedom: degrees of freedom, > 0, not necessarily whole.
    """
    # Two-sided: P(|T| > t) = I_x(freedom/2, 1/2) with x = freedom / (freedom + t^2).
    tail = _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return tail if t >= 0 else 1 - tail


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % Student interval.

    Raises:
        ClisonixError: fewer than two values.
    """
    if len(values) < 2:
        raise ClisonixError(f"an interval of a mean needs at least two values; given {len(values)}")
    mean = math.fsum(values) / len(values)
    half = t_quantile(0.975, len(values) - 1) * math.sqrt(_variance(values, mean) / len(values))
    return mean, mean - half, mean + half


def _variance(values: Sequence[float], mean: float) -> float:
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _density(t: float, freedom: float) -> float:
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi * freedom) / 2
    return math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only below this
        return 1.0 - _incomplete_beta(1 - x, b, a)
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    return scale * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    # Lentz's method, as modified by Thompson and Barnett (1986).
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 + step * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + step / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value
