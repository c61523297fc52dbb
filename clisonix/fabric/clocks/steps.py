"""How large steps in stamps are, told by the samples that were held up least."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.fabric.clocks.line import FloatArray, dependence, scale

IntArray = npt.NDArray[np.int64]

_EARLY = 0.02  # weight of a late stamp, where an early one has 1 - this
_BURST = 0.5  # sample periods; a stamp that follows sooner came in the same burst
_GROSS = 8.0  # robust standard deviations from which a stamp is wrong, not late
_FEWEST = 8  # last samples of bursts, on each side of every step
_ROUNDS = 50


class Steps(NamedTuple):
    """Levels of the pieces of a stream, all of one rate.

    Attributes:
        sizes_s: `(steps,)` level after each step minus level before it.
        sds_s: `(steps,)` their standard errors.
        period_s: seconds a sample.
        sd_s: standard deviation of the stamps about the levels.
    """

    sizes_s: FloatArray
    sds_s: FloatArray
    period_s: float
    sd_s: float


def steps_by_mean(stamps: FloatArray, at: IntArray) -> Steps:
    """Steps at the first samples `at`, where every sample counts alike."""
    index = np.arange(len(stamps), dtype=np.float64)
    group = np.searchsorted(at, index, side="right")
    levels, period, residuals = within(index, stamps, group)
    sizes = np.bincount(group)
    sd, ratio = float(np.std(residuals)), dependence(residuals)[0]
    level_sd = sd * np.sqrt(ratio / sizes)
    apart = (sizes[1:] + sizes[:-1]) / 2 * sd * math.sqrt(ratio / float(np.sum(sizes.astype(np.float64) ** 3 / 12)))
    return Steps(np.diff(levels), np.sqrt(level_sd[1:] ** 2 + level_sd[:-1] ** 2 + apart**2), period, sd)


def steps_by_earliest(stamps: FloatArray, at: IntArray, period: float) -> Steps | None:
    """The same from the last sample of each burst, the earlier the heavier.

    Samples wait for their packet and packets for the radio, and neither can be early: delays have a sharp edge on
    one side. The last sample of a burst waited least, and the line that leaves most of them above it (asymmetric
    least squares; W. K. Newey and J. L. Powell, Econometrica 55 (1987) 819) is several times better known than
    the mean. Where jitter has two equal sides it is not; the standard errors tell.

    Returns:
        None where a piece holds too few bursts.
    """
    ends = np.append(np.flatnonzero(np.diff(stamps) > _BURST * period), len(stamps) - 1)
    group = np.searchsorted(at, ends, side="right")
    if np.bincount(group, minlength=len(at) + 1).min() < _FEWEST:
        return None
    x, y = ends.astype(np.float64), stamps[ends]
    # Stamps that are far too early are wrong, and would have the most to say.
    rough = within(x, y, group)[2]
    sound = np.abs(rough) <= _GROSS * max(scale(rough), 1e-9)
    x, y, group = x[sound], y[sound], group[sound]
    if np.bincount(group, minlength=len(at) + 1).min() < _FEWEST:
        return None
    weights = np.ones_like(y)
    for _ in range(_ROUNDS):
        total = np.bincount(group, weights)
        mean_x, mean_y = np.bincount(group, weights * x) / total, np.bincount(group, weights * y) / total
        dx, dy = x - mean_x[group], y - mean_y[group]
        spread = float(np.sum(weights * dx * dx))
        slope = float(np.sum(weights * dx * dy)) / spread
        residuals = dy - slope * dx
        new = np.where(residuals > 0, _EARLY, 1 - _EARLY)
        if np.array_equal(new, weights):
            break
        weights = new
    pull = weights * residuals
    ratio = dependence(pull)[0]
    level_variance = ratio * np.bincount(group, pull**2) / total**2
    slope_variance = ratio * float(np.sum((pull * dx) ** 2)) / spread**2
    variance = level_variance[1:] + level_variance[:-1] + np.diff(mean_x) ** 2 * slope_variance
    levels = mean_y - slope * mean_x
    return Steps(np.diff(levels), np.sqrt(variance), slope, float(np.std(residuals)))


def within(index: FloatArray, stamps: FloatArray, group: IntArray) -> tuple[FloatArray, float, FloatArray]:
    """One slope and a level for each group, by least squares without the stamps that are grossly wrong.

    Returns:
        Levels at index 0, the slope, and residuals.
    """
    weights = np.ones_like(stamps)
    levels, slope, residuals = np.zeros(1), 0.0, stamps
    for _ in range(10):
        n = np.bincount(group, weights)
        mean_x, mean_y = np.bincount(group, weights * index) / n, np.bincount(group, weights * stamps) / n
        dx, dy = index - mean_x[group], stamps - mean_y[group]
        slope = float(np.sum(weights * dx * dy) / np.sum(weights * dx * dx))
        levels = mean_y - slope * mean_x
        residuals = stamps - levels[group] - slope * index
        limit = max(_GROSS * scale(residuals), 1e-9)
        new = np.minimum(1.0, limit / np.maximum(np.abs(residuals), 1e-300))
        if np.max(np.abs(new - weights)) < 1e-6:
            break
        weights = new
    return levels, slope, residuals
