"""When a counter moved: the regular grid of its movements (ticks), learnt from samples that only bracket each one.

A sample that differs from the one before says that a tick lies between the two. Samples spaced a little closer than
the ticks drift through the counter's period, so within seconds some fall just before and some just after a tick;
together they pin the grid to a few milliseconds, though no single one does. A counter that keeps no regular beat,
or that was sampled too sparsely to tell, gets the middle of each bracket, and a correspondingly larger error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK = 128
"""Ticks fitted together: short enough for the counter's clock to drift unnoticed against this machine's."""
OVERLAP = 24
SLACK_S = 0.004
"""A sample this close to a tick may have been taken on either side of it: ticks stray from their beat."""


ALLOWANCE_S = 0.002
"""Periods of which one leaves so much more room than the other may both be true: ticks stray."""
DRIFT = 0.002
"""How far the period of later ticks may differ from that of the first, as a share."""


@dataclass(frozen=True)
class KnownTicks:
    """Ticks of known time, all `(ticks,)`.

    Attributes:
        index: among all ticks.
        time_s: seconds.
        own_s: standard error of each time on its own.
        common_s: standard error that times of one chunk have in common.
        tilt_s: by how much a time moves where the chunk's period is off by its standard error; signed.
    """

    index: Ints
    time_s: Floats
    own_s: Floats
    common_s: Floats
    tilt_s: Floats


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
        return self.misfits <= 0.05 and self.room_s < 0.9 * self.period_s


class Ticks:
    """The ticks that samples show, each with its time.

    Args:
        t_s: sample times in seconds, not decreasing, `(samples,)`.
        values: raw counter values, `(samples,)`.
        nominal_s: what the sensor says about its period.

    Attributes:
        at: index of the first sample that shows each tick's value, `(ticks,)`; the first is sample 0.
        earliest_s: the tick happened after this, `(ticks,)`.
        latest_s: and not after this.
    """

    def __init__(self, t_s: Floats, values: Floats, nominal_s: float) -> None:
        moved: Ints = np.flatnonzero(np.diff(values) != 0) + 1
        self.at: Ints = np.concatenate([np.zeros(1, np.int64), moved])
        self.latest_s: Floats = t_s[self.at]
        # How old the first sample's value is, is not known.
        self.earliest_s: Floats = np.concatenate([[t_s[0] - 10 * nominal_s], t_s[moved - 1]])
        self._nominal_s = nominal_s
        count = len(self.at)
        self._centre = np.zeros(count)
        self._own, self._common, self._tilt = np.zeros(count), np.zeros(count), np.zeros(count)
        # Zero after a reset is the counter at that moment, and no tick of its grid.
        self._regular = np.concatenate([[True], (values[moved] >= values[moved - 1]) | (values[moved] != 0)])
        self._sure = self._regular.copy()
        self._done = np.zeros(-(-count // CHUNK), bool)
        self._first: tuple[float, Grid | None] | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def period_s(self) -> float:
        """Seconds between ticks, as the first hundred or so show; the nominal period where they show none."""
        return self._begin()[0]

    def known(self, low: int, high: int) -> KnownTicks:
        """The ticks with indices from `low` to before `high` whose time is clear."""
        for chunk in range(low // CHUNK, -(-high // CHUNK)):
            if not self._done[chunk]:
                self._place(chunk)
        index: Ints = np.flatnonzero(self._sure[low:high]) + low
        # Times that a fit puts out of order would make negative power.
        index = index[np.diff(np.maximum.accumulate(self._centre[index]), prepend=-np.inf) > 1e-6]
        return KnownTicks(index, self._centre[index], self._own[index], self._common[index], self._tilt[index])

    def _begin(self) -> tuple[float, Grid | None]:
        """The period and the grid of the first chunk, from which the others start."""
        if self._first is None:
            seen_s = _seen_period(self.earliest_s[1:CHUNK], self.latest_s[1:CHUNK])
            # Near the nominal period that is the better guess: the first brackets are wide against it.
            agrees = seen_s is not None and abs(seen_s / self._nominal_s - 1) < 0.06
            period_s = self._nominal_s if seen_s is None or agrees else seen_s
            looseness = 0.03 if agrees else 0.1
            grid = self._fit(0, period_s, looseness, 5)
            if grid is not None and grid.misfits <= 0.05:
                period_s = grid.period_s
            self._first = period_s, grid
        return self._first

    def _fit(self, chunk: int, period_s: float, looseness: float, start: int) -> Grid | None:
        low, high = max(1, chunk * CHUNK - OVERLAP), min(len(self), (chunk + 1) * CHUNK + OVERLAP)
        if high - low < 4:
            return None
        kept = np.flatnonzero(self._regular[low:high]) + low
        broken = np.concatenate([[True], np.diff(kept) > 1])
        return fit_grid(self.earliest_s[kept], self.latest_s[kept], broken, period_s, looseness, start)

    def _place(self, chunk: int) -> None:
        low, high = chunk * CHUNK, min(len(self), (chunk + 1) * CHUNK)
        earliest, latest = self.earliest_s[low:high], self.latest_s[low:high]
        first_s, grid = self._begin()
        if chunk > 0:
            # The period is known well by now; it may drift a little with temperature.
            known = DRIFT if grid is None else max(DRIFT, 3 * grid.period_error_s / first_s)
            grid = self._fit(chunk, first_s, known, 12)
        period_s = first_s if grid is None else grid.period_s
        # Only a counter's last movement before a sample shows, and that is at most one period old.
        earliest = np.maximum(earliest, latest - period_s)
        if grid is None or not grid.usable:
            self._centre[low:high] = (earliest + latest) / 2
            self._own[low:high] = (latest - earliest) / math.sqrt(12)
        else:
            slack_s = SLACK_S + max(0.4 * grid.room_s, -0.5 * grid.room_s)
            tick = np.floor((latest + slack_s - grid.phase_s) / period_s) * period_s + grid.phase_s
            # A tick off its beat can leave its bracket without any; then it is the nearest one.
            outside = self.earliest_s[low:high] - tick
            tick = np.where((outside > slack_s) & (tick + period_s - latest < outside), tick + period_s, tick)
            # The sample lies so close to a tick that it may show this one or the one before.
            unclear = (tick > latest - slack_s) & (tick - period_s >= self.earliest_s[low:high] - slack_s)
            self._centre[low:high] = np.clip(tick, earliest, latest)
            middle_s = (self.latest_s[low] + self.latest_s[high - 1]) / 2
            self._tilt[low:high] = (latest - middle_s) / period_s * grid.period_error_s
            self._common[low:high] = np.minimum(abs(grid.room_s) / 3, (latest - earliest) / math.sqrt(12))
            self._sure[low:high] &= ~unclear
        self._done[chunk] = True


def fit_grid(
    earliest_s: Floats, latest_s: Floats, broken: NDArray[np.bool_], period_s: float, looseness: float, start: int
) -> Grid:
    """Fit a regular grid to brackets, each of which holds the last tick before its end.

    A straight line through the brackets' middles over their ordinal numbers gives the period. It starts with few
    brackets, whose numbers are certain, and numbers the next ones by what it has learnt.

    Args:
        earliest_s: lower ends, seconds, `(brackets,)`.
        latest_s: upper ends, not decreasing.
        broken: whether ticks may have gone unseen between a bracket and the one before it.
        period_s: first idea of the period.
        looseness: relative standard error of that idea.
        start: how many brackets to begin with.
    """
    origin = float(latest_s[0])
    lo, hi = earliest_s - origin, latest_s - origin
    count = len(lo)
    # A bracket shorter than the period holds exactly one tick.
    lone = (hi - lo < 0.97 * period_s) & ~broken
    wide = np.flatnonzero(~lone[1:]) + 1
    used = min(count, start, max(int(wide[0]), 4) if len(wide) else count)
    number = np.cumsum(np.where(lone, 1.0, np.maximum(1.0, np.round((hi - lo) / period_s - 0.5)))) - 1
    phase_s = 0.0
    while True:
        top = hi[:used]
        bottom = np.maximum(lo[:used], top - period_s)
        period_s, phase_s, tightness = _line(number[:used], (bottom + top) / 2, top - bottom, period_s, looseness)
        if used == count:
            break
        used = min(count, used + max(3, 3 * used // 4))
        looseness = min(looseness, 3 / math.sqrt(tightness) / period_s + 1e-5)
        number[:used] = _number(lo[:used], hi[:used], broken[:used], phase_s, period_s)
    # The line weighs brackets by their width alone; which grid they allow is told by their ends. Of the periods the
    # line allows take the one that leaves most room, and the middle of that room; a few brackets may be outliers.
    periods_s = period_s + np.linspace(-2.5, 2.5, 21) / math.sqrt(tightness)
    outliers = count // 100
    tops = np.partition(hi - np.outer(periods_s, number), outliers, axis=1)[:, outliers]
    bottoms = np.partition(lo - np.outer(periods_s, number), count - 1 - outliers, axis=1)[:, count - 1 - outliers]
    rooms = tops - bottoms
    best = int(np.argmax(rooms))
    # Periods that leave nearly as much room, or any at all, are as good.
    allowed = periods_s[rooms >= min(0.0, float(rooms[best]) - ALLOWANCE_S)]
    error_s = max(float(np.ptp(allowed)), float(periods_s[1] - periods_s[0])) / math.sqrt(12)
    period_s, highest, lowest = float(periods_s[best]), float(tops[best]), float(bottoms[best])
    phase_s = (highest + lowest) / 2
    top, bottom = hi - number * period_s, lo - number * period_s
    missed = (top < phase_s - 0.1 * period_s) | (bottom > phase_s + 0.1 * period_s)
    return Grid(phase_s + origin, period_s, highest - lowest, float(np.count_nonzero(missed)) / count, error_s)


def _line(number: Floats, middle: Floats, width: Floats, period_s: float, looseness: float) -> tuple[float, ...]:
    """Period, phase and the precision of the period, by least squares with a prior on the period."""
    weight = 1 / (width * width / 12 + 1e-6)
    # Sums are exact and so the same on every machine, whatever its vector unit: figures are verified to the last bit.
    total = _sum(weight)
    mean_number, mean_middle = _sum(weight * number) / total, _sum(weight * middle) / total
    off = number - mean_number
    spread, prior = _sum(weight * off * off), 1 / (looseness * period_s) ** 2
    slope = (_sum(weight * off * (middle - mean_middle)) + prior * period_s) / (spread + prior)
    return slope, mean_middle - mean_number * slope, spread + prior


def _number(lo: Floats, hi: Floats, broken: NDArray[np.bool_], phase_s: float, period_s: float) -> Floats:
    """Which tick of the grid each bracket's last one is; brackets shorter than a period count one by one."""
    wide = (hi - lo >= 0.97 * period_s) | broken
    wide[0] = True
    starts: Ints = np.flatnonzero(wide)
    run = np.cumsum(wide) - 1
    local = np.arange(len(lo)) - starts[run]
    # Inside a run every bracket allows the run's first tick a range of numbers; they have one number in common.
    highest = np.minimum.reduceat((hi - phase_s) / period_s - local, starts)
    lowest = np.maximum.reduceat((np.maximum(lo, hi - period_s) - phase_s) / period_s - local, starts)
    number: Floats = np.round((highest + lowest) / 2)[run] + local
    return number


def _seen_period(earliest_s: Floats, latest_s: Floats) -> float | None:
    """The period between brackets so narrow that no tick between two of them went unseen, or None."""
    gap, width = np.diff(latest_s), latest_s - earliest_s
    clear = np.maximum(width[1:], width[:-1]) < 0.35 * gap
    return float(np.median(gap[clear])) if clear.any() else None


def _sum(values: Floats) -> float:
    return math.fsum(values.tolist())
