"""The regular grid on which a counter moves (ticks), fitted to samples that only bracket its ticks.

Every stretch between two samples says something: where the value differs a tick lies inside, where it does not none
does. Which tick is which is not known, so all periods in question are tried, and the one is taken at which most of
those statements hold for one grid. A few late or wrongly timed samples are then outvoted, where counting ticks one by
one would lose its way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PHASES = 64
"""Places in a period at which a grid is tried."""
FIRST = 24
"""So few brackets at first, for which a wide range of periods is quickly searched."""
CONTRADICTION = 3.0
"""What each statement that does not hold costs a period, in units of log likelihood."""
KEPT = 8.0
"""Periods that cost so much more than the best one may still turn out to be true."""
AMBIGUOUS = 0.3
"""A standard error of the period that adds up to so large a share of it over all ticks leaves their numbers open."""
SPREAD = 2.5
"""How many standard errors around the first idea of the period are searched."""
ALLOWANCE_S = 0.002
"""Periods of which one leaves so much more room than the other may both be true: ticks stray."""
FEWEST = 4
TELLING = 8
"""One bracket in so many, at least, must be shorter than the period. Samples taken in pairs leave one in three."""


@dataclass(frozen=True)
class Grid:
    """Ticks at `phase_s + k * period_s`.

    Attributes:
        phase_s: time of one tick, seconds.
        period_s: seconds between ticks.
        room_s: how far the grid could be shifted without leaving a bracket; negative when no shift fits them all.
        misfits: share of the brackets that the grid clearly misses.
        period_error_s: standard error of the period.
    """

    phase_s: float
    period_s: float
    room_s: float
    misfits: float
    period_error_s: float

    @property
    def usable(self) -> bool:
        """Whether the brackets agree on a grid, and say where it lies."""
        return self.misfits <= 0.1 and self.room_s < 0.9 * self.period_s


def fit_grid(earliest_s: Floats, latest_s: Floats, quiet_s: Floats, period_s: float, looseness: float) -> Grid | None:
    """Fit a regular grid.

    Args:
        earliest_s: lower ends of the brackets, seconds, `(brackets,)`: a tick happened later than this.
        latest_s: and not later than this; not decreasing.
        quiet_s: begin and end of the stretches during which none happened, `(stretches, 2)`.
        period_s: first idea of the period.
        looseness: relative standard error of that idea.

    Returns:
        None where the brackets are too few or too wide to tell, or fit several grids.
    """
    if len(latest_s) < FEWEST:
        return None
    origin = float(latest_s[0])
    lo, hi, quiet = earliest_s - origin, latest_s - origin, quiet_s - origin
    low_s, high_s = period_s * max(0.5, 1 - SPREAD * looseness), period_s * (1 + SPREAD * looseness)
    prior = (period_s, looseness)
    if len(lo) > FIRST and looseness > 0.01:
        few = quiet[quiet[:, 1] <= hi[FIRST - 1]]
        low_s, high_s, _, _, _ = _search(lo[:FIRST], hi[:FIRST], few, low_s, high_s, prior)
    _, _, best_s, phase_s, doubt_s = _search(lo, hi, quiet, low_s, high_s, prior)
    if doubt_s * (hi[-1] - hi[0]) > AMBIGUOUS * best_s**2:
        return None
    # A bracket as long as the period holds a tick wherever the grid lies.
    telling: Ints = np.flatnonzero(hi - lo < 0.98 * best_s)
    if len(telling) < max(FEWEST, len(lo) // TELLING):
        return None
    lo, hi = lo[telling], hi[telling]
    slack_s = best_s / PHASES
    number = np.floor((hi + slack_s - phase_s) / best_s)
    holds = phase_s + number * best_s > lo - slack_s
    if np.count_nonzero(holds) < FEWEST:
        return None
    return _refine(lo, hi, number, holds, origin, best_s, looseness * period_s)


def _refine(
    lo: Floats, hi: Floats, number: Floats, holds: NDArray[np.bool_], origin: float, period_s: float, prior_s: float
) -> Grid:
    """The grid of numbered brackets. Where it lies is told by their ends: take the middle of the room they leave."""
    within = np.flatnonzero(holds)
    width = hi - lo
    slope_s, tightness = _slope(number[within], (hi + lo)[within] / 2, width[within], period_s, prior_s)
    periods_s = slope_s + np.linspace(-2.5, 2.5, 21) / math.sqrt(tightness)
    outliers = len(within) // 100
    last = len(within) - 1 - outliers
    tops = np.partition(hi[within] - np.outer(periods_s, number[within]), outliers, axis=1)[:, outliers]
    bottoms = np.partition(lo[within] - np.outer(periods_s, number[within]), last, axis=1)[:, last]
    rooms = tops - bottoms
    best = int(np.argmax(rooms))
    # Periods that leave nearly as much room, or any at all, are as good.
    allowed = periods_s[rooms >= min(0.0, float(rooms[best]) - ALLOWANCE_S)]
    error_s = max(float(np.ptp(allowed)), float(periods_s[1] - periods_s[0])) / math.sqrt(12)
    period_s, highest, lowest = float(periods_s[best]), float(tops[best]), float(bottoms[best])
    phase_s = (highest + lowest) / 2
    missed = (hi - number * period_s < phase_s - 0.1 * period_s) | (lo - number * period_s > phase_s + 0.1 * period_s)
    return Grid(phase_s + origin, period_s, highest - lowest, float(np.count_nonzero(missed)) / len(lo), error_s)


def _search(
    lo: Floats, hi: Floats, quiet: Floats, low_s: float, high_s: float, prior: tuple[float, float]
) -> tuple[float, float, float, float, float]:
    """The range of periods that remain in question, the likeliest one, its phase, and its standard error."""
    period_s, looseness = prior
    # From one period to the next the far end of the grid moves by one place.
    length_s = max(float(hi[-1] - hi[0]), period_s)
    fine_s = low_s / PHASES * low_s / length_s
    periods_s = np.linspace(low_s, high_s, max(3, math.ceil((high_s - low_s) / fine_s) + 1))
    short = hi - lo < high_s
    still = quiet[quiet[:, 1] > quiet[:, 0]]
    column = periods_s[:, None]
    # No tick from a to b is the same as one from b to a whole period after a.
    begin = np.concatenate([np.broadcast_to(lo[short], (len(periods_s), int(short.sum()))),
                            np.broadcast_to(still[:, 1], (len(periods_s), len(still)))], axis=1)  # fmt: skip
    width = np.concatenate([np.broadcast_to(hi[short] - lo[short], (len(periods_s), int(short.sum()))),
                            column - (still[:, 1] - still[:, 0])], axis=1)  # fmt: skip
    votes = _votes(begin / column % 1.0, width / column)
    place = _middle_of_best(votes)
    wrong = begin.shape[1] - votes.max(axis=1)
    cost = CONTRADICTION * wrong + ((periods_s - period_s) / (looseness * period_s)) ** 2 / 2
    best = int(np.argmin(cost))
    kept = periods_s[cost <= cost[best] + KEPT]
    step_s = float(periods_s[1] - periods_s[0])
    found_s = float(periods_s[best])
    likely = np.exp(cost[best] - cost)
    doubt_s = math.sqrt(_sum(likely * (periods_s - found_s) ** 2) / _sum(likely))
    return float(kept[0]) - step_s, float(kept[-1]) + step_s, found_s, float(place[best]) * found_s, doubt_s


def _votes(begin: Floats, length: Floats) -> Ints:
    """How many statements hold for each period and phase, `(periods, PHASES)`.

    Args:
        begin: where each statement's span begins, as a share of the period from 0 to 1, `(periods, statements)`.
        length: how long it is, in periods.
    """
    count = len(begin)
    first = np.floor(begin * PHASES).astype(np.int64)
    # A span longer than the period holds everywhere, one of negative length nowhere.
    reach = np.ceil((begin + np.minimum(length, 1.0)) * PHASES).astype(np.int64)
    reach = np.where(length >= 1, first + PHASES - 1, np.minimum(reach, first + PHASES - 1))
    reach = np.where(length <= 0, first - 1, reach)
    wide = 2 * PHASES + 1
    row = np.arange(count)[:, None] * wide
    change = np.bincount((row + first).ravel(), minlength=count * wide)
    change -= np.bincount((row + reach + 1).ravel(), minlength=count * wide)
    level = np.cumsum(change.reshape(count, wide), axis=1)
    return np.asarray(level[:, :PHASES] + level[:, PHASES : 2 * PHASES])


def _middle_of_best(votes: Ints) -> Floats:
    """For each period the middle of the phases with most votes, as a share from 0 to 1; they may lie across 0."""
    best = votes == votes.max(axis=1, keepdims=True)
    angle = 2 * np.pi * np.arange(PHASES) / PHASES
    return np.asarray(np.arctan2(best @ np.sin(angle), best @ np.cos(angle)) / (2 * np.pi) % 1.0)


def _slope(number: Floats, middle: Floats, width: Floats, period_s: float, prior_s: float) -> tuple[float, float]:
    """The period and its precision, by least squares over the brackets' middles."""
    weight = 1 / (width * width / 12 + 1e-6)
    # Sums are exact and so the same on every machine, whatever its vector unit: figures are verified to the last bit.
    total = _sum(weight)
    mean_number, mean_middle = _sum(weight * number) / total, _sum(weight * middle) / total
    off = number - mean_number
    spread, prior = _sum(weight * off * off), 1 / prior_s**2
    return (_sum(weight * off * (middle - mean_middle)) + prior * period_s) / (spread + prior), spread + prior


def _sum(values: Floats) -> float:
    return math.fsum(values.tolist())
