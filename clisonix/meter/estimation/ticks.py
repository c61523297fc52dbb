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

from clisonix.meter.estimation.tick_grid import Floats, Grid, Ints, fit_grid

__all__ = ["CHUNK", "Floats", "Ints", "KnownTicks", "Ticks"]

CHUNK = 128
"""Ticks fitted together: short enough for the counter's clock to drift unnoticed against this machine's."""
OVERLAP = 24
SLACK_S = 0.004
"""A sample this close to a tick may have been taken on either side of it: ticks stray from their beat."""

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
            grid = self._fit(0, period_s, looseness)
            if grid is not None and grid.usable:
                period_s = grid.period_s
            self._first = period_s, grid
        return self._first

    def _fit(self, chunk: int, period_s: float, looseness: float) -> Grid | None:
        low, high = max(1, chunk * CHUNK - OVERLAP), min(len(self), (chunk + 1) * CHUNK + OVERLAP)
        kept = np.flatnonzero(self._regular[low:high]) + low
        quiet_s = np.stack([self.latest_s[low : high - 1], self.earliest_s[low + 1 : high]], axis=1)
        return fit_grid(self.earliest_s[kept], self.latest_s[kept], quiet_s, period_s, looseness)

    def _place(self, chunk: int) -> None:
        low, high = chunk * CHUNK, min(len(self), (chunk + 1) * CHUNK)
        earliest, latest = self.earliest_s[low:high], self.latest_s[low:high]
        first_s, grid = self._begin()
        if chunk > 0:
            # The period is known well by now; it may drift a little with temperature.
            known = DRIFT if grid is None else max(DRIFT, 3 * grid.period_error_s / first_s)
            grid = self._fit(chunk, first_s, known)
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
            within = np.clip(tick, earliest, latest)
            # Either the tick strayed, or a sample was not of the moment it says.
            self._centre[low:high], self._own[low:high] = within, np.abs(within - tick) / math.sqrt(3)
            middle_s = (self.latest_s[low] + self.latest_s[high - 1]) / 2
            self._tilt[low:high] = (latest - middle_s) / period_s * grid.period_error_s
            self._common[low:high] = np.minimum(abs(grid.room_s) / 3, (latest - earliest) / math.sqrt(12))
            self._sure[low:high] &= ~unclear
        self._done[chunk] = True


def _seen_period(earliest_s: Floats, latest_s: Floats) -> float | None:
    """The period between brackets so narrow that no tick between two of them went unseen, or None."""
    gap, width = np.diff(latest_s), latest_s - earliest_s
    clear = np.maximum(width[1:], width[:-1]) < 0.35 * gap
    return float(np.median(gap[clear])) if clear.any() else None
