"""How much a number of runs can show: the power of a t test, the effect it sees, the runs it needs.

The test statistic under a true effect follows the noncentral t distribution; its tail is integrated numerically
over the chi distribution of the standard error (Johnson, Kotz and Balakrishnan 1995, chapter 31).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from clisonix.meter.comparing.group_difference import Contrast
from clisonix.meter.comparing.intervals import t_quantile

MOST_RUNS = 1000
"""Nobody runs more; beyond it the answer is that the difference is too small to show."""
POWER = 0.8


def power(distance: float, error: float, freedom: float, level: float) -> float:
    """The probability that a one-sided t test at `level` rejects.

    Args:
        distance: how far the true effect lies beyond the tested value.
        error: true standard error of the estimate, > 0.
        freedom: degrees of freedom.
        level: of the test, e.g. 0.05.
    """
    shift, critical = distance / error, t_quantile(1 - level, freedom)
    nodes, weights = _chi(freedom)
    return sum(w * _normal_above(critical * x - shift) for x, w in zip(nodes, weights, strict=True))


def detectable(found: Contrast, level: float, wanted: float = POWER) -> float:
    """The smallest true effect beyond a margin that a test with these runs and this spread sees so often."""
    if found.error == 0:
        return 0.0
    return found.error * _shift(found.freedom, level, wanted)


def runs_to_differ(found: Contrast, margin: float = 0.0) -> int | None:
    """Pairs, or runs on each side, until the 95 % interval lies beyond `margin` on the side of the effect.

    Assumes that the effect and the spread seen so far are the true ones; with them, four of five such
    experiments succeed.

    Returns:
        The total needed, or None when more than `MOST_RUNS`.
    """
    distance = abs(found.effect) - margin
    if distance <= 0:
        return None
    return _fewest(found, lambda error, freedom: power(distance, error, freedom, 0.025))


def runs_to_agree(found: Contrast, low: float, high: float) -> int | None:
    """Pairs, or runs on each side, until the effect is shown to lie in a range; see `runs_to_differ`."""
    near, far = sorted((found.effect - low, high - found.effect))
    if near <= 0:
        return None
    # Both one-sided tests must reject; Bonferroni's inequality bounds the chance that either fails.
    return _fewest(
        found, lambda error, freedom: power(near, error, freedom, 0.05) + power(far, error, freedom, 0.05) - 1
    )


def typical_freedom(n: int, paired: bool) -> float:
    """Degrees of freedom that `n` pairs, or `n` runs on each side of equal spread, will have.

    Welch's varies with the spreads that happen to be seen: its expectation follows from the beta distribution of
    their shares, and falls short of twice `n - 1` for few runs.
    """
    return n - 1.0 if paired else 2 * n * (n - 1.0) / (n + 1)


def _fewest(found: Contrast, chance: Callable[[float, float], float]) -> int | None:
    if found.spread == 0:
        return 2

    def enough(n: int) -> bool:
        error = found.spread * math.sqrt((1 if found.paired else 2) / n)
        return chance(error, typical_freedom(n, found.paired)) >= POWER

    if not enough(MOST_RUNS):
        return None
    low, high = 1, MOST_RUNS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _shift(freedom: float, level: float, wanted: float) -> float:
    """The effect, in standard errors, at which the power is `wanted`."""
    critical = t_quantile(1 - level, freedom)
    nodes, weights = _chi(freedom)
    shift = critical
    for _ in range(50):
        missing = wanted - sum(w * _normal_above(critical * x - shift) for x, w in zip(nodes, weights, strict=True))
        slope = sum(w * _normal_density(critical * x - shift) for x, w in zip(nodes, weights, strict=True))
        # Newton's step, held back where the curve is flat.
        step = max(-shift / 2, min(missing / max(slope, 1e-12), shift))
        shift += step
        if abs(step) < 1e-9 * shift:
            break
    return shift


def _chi(freedom: float) -> tuple[list[float], list[float]]:
    """Nodes and weights of the distribution of an estimated over a true standard error."""
    # It is concentrated round 1, ever more so with more degrees of freedom.
    reach = 8 / math.sqrt(2 * freedom)
    x = np.linspace(max(0.0, 1 - reach), 1 + reach, 161)
    log_density = (freedom - 1) * np.log(np.maximum(x, 1e-300)) - freedom * x * x / 2
    weight = np.exp(log_density - log_density.max())
    weight[1:-1:2] *= 4  # Simpson's rule
    weight[2:-1:2] *= 2
    return x.tolist(), (weight / weight.sum()).tolist()


def _normal_density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _normal_above(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2
