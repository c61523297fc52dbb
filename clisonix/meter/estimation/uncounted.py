"""What a counter did not count: resets to zero, and stretches in which it stood still.

Both are estimated from the power before and after, and widen the interval of every window that covers them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clisonix.meter.estimation.ticks import Floats, Ticks

AROUND = 4
"""Ticks on each side whose power speaks for a stretch that was not counted."""


@dataclass(frozen=True)
class Missed:
    """What a counter did not count between two ticks.

    Attributes:
        tick: index of the later tick.
        joules: the estimate.
        error_j: its standard error.
        stuck: whether the counter stood still (else it was reset).
    """

    tick: int
    joules: float
    error_j: float
    stuck: bool


def find_missed(ticks: Ticks, value: Floats, reset: Floats) -> list[Missed]:
    """Find the resets and the stretches without movement that a counter did not make up for.

    Args:
        ticks: of the counter.
        value: energy counted up to each tick in joules, resets undone, `(ticks,)`.
        reset: whether the counter began anew before the tick, `(ticks,)`.
    """
    return [*_resets(ticks, value, reset), *_stalls(ticks, value)]


def stall_s(period_s: float) -> float:
    """How long a counter may show the same value, in seconds, before it counts as stuck."""
    return max(1.0, 10 * period_s)


def _resets(ticks: Ticks, value: Floats, reset: Floats) -> Iterator[Missed]:
    for tick in np.flatnonzero(reset):
        around = _around(ticks, value, int(tick))
        if around is None:
            continue
        before_w, after_w, range_w, gap_s, counted_j, timing = around
        power_w = (before_w + after_w) / 2
        # Over a long gap the load may have been anything.
        share = 0.1 if gap_s <= 3 * ticks.period_s else 0.35
        error_j = gap_s * (max(abs(before_w - after_w) / 2, 0.4 * range_w) + share * power_w)
        error_j = math.hypot(error_j, timing * power_w * gap_s)
        yield Missed(int(tick), max(0.0, power_w * gap_s - counted_j), error_j, stuck=False)


def _stalls(ticks: Ticks, value: Floats) -> Iterator[Missed]:
    still_s = ticks.earliest_s[1:] - ticks.latest_s[:-1]
    for tick in np.flatnonzero(still_s > stall_s(ticks.period_s)) + 1:
        around = _around(ticks, value, int(tick))
        if around is None:
            continue
        before_w, after_w, _, gap_s, counted_j, _ = around
        expected_j = (before_w + after_w) / 2 * gap_s
        # A counter that makes up for its pause lost nothing; it was only silent.
        if counted_j < 0.5 * expected_j:
            yield Missed(int(tick), expected_j - counted_j, 0.35 * expected_j, stuck=True)


def _around(ticks: Ticks, value: Floats, tick: int) -> tuple[float, float, float, float, float, float] | None:
    """Around the stretch that ends with a tick: mean power before and after, and its range from tick to tick.

    Then the stretch's length in seconds, the joules counted in it, and the relative error that the times of the ticks
    leave in power times length.
    """
    low, high = max(0, tick - 2 - AROUND), min(len(ticks), tick + 2 + AROUND)
    known = ticks.known(low, high)
    index, time_s = known.index, known.time_s
    after = int(np.searchsorted(index, tick))  # the first clear tick at or after it
    if after == 0 or after == len(index):
        return None
    joules = value[index]
    power_w = [
        float(joules[last] - joules[first]) / float(time_s[last] - time_s[first]) if last > first else None
        for first, last in ((max(0, after - 1 - AROUND), after - 1), (after, min(len(index) - 1, after + AROUND)))
    ]
    before_w, after_w = power_w
    if before_w is None and after_w is None:
        return None
    gap_s = float(time_s[after] - time_s[after - 1])
    own_s = math.sqrt(2) * float(np.max(known.own_s))
    each_w = np.delete(np.diff(joules) / np.diff(time_s), after - 1)
    return (
        before_w if before_w is not None else after_w or 0.0,
        after_w if after_w is not None else before_w or 0.0,
        float(np.ptp(each_w)),
        gap_s,
        float(joules[after] - joules[after - 1]),
        own_s / gap_s + own_s / float(time_s[-1] - time_s[0]),
    )
