"""A straight line through noisy times: robust, and honest about how well it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MAD_TO_SD = 1.4826  # of a normal distribution
_FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Line:
    """`y = level + slope * (x - centre)`.

    `level_sd` and `slope_sd` are standard errors that allow for residuals which depend on their neighbours;
    `degrees` are the degrees of freedom behind them. `kept` is False where a point had no say.
    """

    centre: float
    level: float
    slope: float
    residual_sd: float
    level_sd: float
    slope_sd: float
    degrees: float
    kept: npt.NDArray[np.bool_]


def scale(residuals: FloatArray) -> float:
    """Robust standard deviation: median absolute deviation from the median."""
    return MAD_TO_SD * float(np.median(np.abs(residuals - np.median(residuals))))


def huber_line(x: FloatArray, y: FloatArray, *, width: float, floor: float = 0.0, rounds: int = 50) -> Line:
    """Least squares for small residuals, least absolute for large ones (Huber, 1964).

    Args:
        x: `(n,)`, n >= 3, in the order of time.
        y: `(n,)`.
        width: robust standard deviations from which a residual counts as large.
        floor: residuals below this never do.
        rounds: most iterations of reweighting.
    """
    centre = float(np.mean(x))
    along = x - centre
    weights = np.ones_like(along)
    level, slope, limit = _solve(along, y, weights, math.inf, width, floor)
    for _ in range(rounds):
        residuals = np.abs(y - level - slope * along)
        new = np.minimum(1.0, limit / np.maximum(residuals, 1e-300))
        change = float(np.max(np.abs(new - weights)))
        weights = new
        level, slope, limit = _solve(along, y, weights, limit, width, floor)
        if change < 1e-6:
            break
    residuals = y - level - slope * along
    psi = np.clip(residuals, -limit, limit)
    # Share of residuals inside the limit; of a narrow limit, from the density round zero.
    around = max(limit, 0.5 * scale(residuals)) if math.isfinite(limit) else math.inf
    inside = float(np.mean(np.abs(residuals) <= around)) * (limit / around if math.isfinite(limit) else 1.0)
    n = len(x)
    spread = float(np.sum(along**2))
    sd = math.sqrt(float(np.sum(psi**2)) / max(n - 2, 1)) / max(inside, 1e-6)
    inflation, degrees = dependence(psi)
    level_sd = sd * math.sqrt(inflation / n)
    slope_sd = sd * math.sqrt(inflation / spread) if spread > 0 else math.inf
    kept = np.abs(residuals) <= 3.0 * limit if math.isfinite(limit) else np.ones(n, np.bool_)
    # The level is told where weights are: the weighted mean and the plain one differ little, so one centre serves.
    return Line(centre, level, slope, sd, level_sd, slope_sd, degrees, kept)


def _solve(
    along: FloatArray, y: FloatArray, weights: FloatArray, limit: float, width: float, floor: float
) -> tuple[float, float, float]:
    total = float(np.sum(weights))
    mean_x, mean_y = float(weights @ along) / total, float(weights @ y) / total
    dx, dy = along - mean_x, y - mean_y
    spread = float(weights @ (dx * dx))
    slope = float(weights @ (dx * dy)) / spread if spread > 0 else 0.0
    level = mean_y - slope * mean_x
    # Never wider than before: the reweighting then cannot go round in circles.
    found = max(width * scale(y - level - slope * along), floor)
    return level, slope, min(limit, found) if found > 0 else math.inf


def dependence(residuals: FloatArray) -> tuple[float, float]:
    """How much more the mean of residuals varies than if each were drawn by itself.

    Means of blocks vary more than the residuals' own spread tells where neighbours depend on each other, as
    delays of one burst do (H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91 (1989) 461). The largest ratio
    over all block lengths is taken, so slow wander counts too.

    Returns:
        The ratio of variances, at least 1, and the degrees of freedom that stay.
    """
    n = len(residuals)
    variance = float(np.mean(residuals**2))
    ratio, size, degrees = 1.0, 2, float(max(n - 2, 1))
    if variance <= 0.0:
        return ratio, degrees
    while n // size >= _FEWEST_BLOCKS:
        blocks = n // size
        means = residuals[: blocks * size].reshape(blocks, size).mean(axis=1)
        # Two of the blocks' degrees of freedom went into the line.
        found = float(np.sum(means**2)) / (blocks - 2) * size / variance
        if found > ratio:
            ratio, degrees = found, blocks - 2.0
        size *= 2
    return ratio, degrees


def agreeing(x: FloatArray, y: FloatArray, tolerance: float) -> npt.NDArray[np.bool_]:
    """Which points lie on one line, where up to nearly half may be far off it.

    The line through two of the points that leaves the smallest majority of residuals (least quantile of squares;
    P. J. Rousseeuw, JASA 79 (1984) 871) decides; a point agrees within 4 of its robust standard deviations, or
    within `tolerance`.

    Args:
        x: `(n,)` with n >= 3.
        y: `(n,)`.
        tolerance: what is no outlier in any case.
    """
    n = len(x)
    rank = (n + 2) // 2  # of n residuals; the two points that make the line have none
    first, second = np.triu_indices(n, 1)
    if len(first) > 20_000:
        # Far pairs tell the slope best; a fixed stride keeps the result the same each time.
        step = -(-len(first) // 20_000)
        first, second = first[::step], second[::step]
    usable = x[first] != x[second]
    first, second = first[usable], second[usable]
    best, mask = math.inf, np.ones(n, np.bool_)
    for start in range(0, len(first), 512):
        a, b = first[start : start + 512], second[start : start + 512]
        slopes = (y[b] - y[a]) / (x[b] - x[a])
        residuals = np.abs(y - y[a][:, None] - slopes[:, None] * (x - x[a][:, None]))
        quantile = np.partition(residuals, min(rank, n - 1), axis=1)[:, min(rank, n - 1)]
        at = int(np.argmin(quantile))
        if quantile[at] < best:
            best = float(quantile[at])
            # With few points the majority lies closer to the line than it would to the true one.
            mask = residuals[at] <= max(4.0 * MAD_TO_SD * (1 + 5 / n) * best, tolerance)
    return mask


def student(coverage: float, degrees: float) -> float:
    """Half width, in standard errors, of the interval that holds the truth this often (Student's t).

    G. W. Hill, Algorithm 396, Communications of the ACM 13 (1970) 619.
    """
    tail = 1.0 - coverage
    n = max(degrees, 1.0)
    if n > 1e6:
        return NormalDist().inv_cdf(1 - tail / 2)
    if n == 1.0:
        return 1.0 / math.tan(tail * math.pi / 2)
    if n == 2.0:
        return math.sqrt(2.0 / (tail * (2.0 - tail)) - 2.0)
    a = 1.0 / (n - 0.5)
    b = 48.0 / a**2
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2.0) * n
    y = (d * tail) ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (
            n + 1.0
        ) / (n + 2.0) + 1.0 / y
    return math.sqrt(n * y)
