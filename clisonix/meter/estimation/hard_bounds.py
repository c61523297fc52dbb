"""Energy between two instants, from samples of a cumulative counter.

A counter shows the energy at its last movement (tick), not now. Sampled at `t[i]`, a movement seen there
happened somewhere in `(t[i-1], t[i]]`. With power between 0 and a known maximum, that bounds the energy at any
instant from both sides, and the difference of two instants too. On steady load interpolating between ticks is
far better than the bounds; on a load that swings within one refresh it is not, and the bounds say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Joules:
    """An amount of energy with bounds, and the share of its time that lies between ticks."""

    central: float
    low: float
    high: float
    coverage: float


class Counter:
    """The samples of one counter, made ready for questions.

    Args:
        t_s: sample times in seconds, not decreasing.
        joules: raw counter values; a value below the one before it is a reset to zero.
        max_power_w: the most the device can draw.
        exact: every sample is the energy at that moment.
        refresh_s: nominal time between ticks; the age that the first sample's value may have.
        method: see `series.METHOD`. The first one overlooked resets: between a window's edge and the next
            tick, and two of which samples show one.
    """

    def __init__(
        self, t_s: Floats, joules: Floats, max_power_w: float, exact: bool, refresh_s: float | None, method: int = 2
    ) -> None:
        self.t_s, self._max_w = t_s, max_power_w
        step = np.diff(joules)
        reset = step < 0
        # After a reset the counter holds what was used since, so that much at least was used in this step.
        total = np.concatenate([[0.0], np.cumsum(np.where(reset, joules[1:], step))])
        ticks = np.ones(len(t_s), bool) if exact else np.concatenate([[True], step != 0])
        self._at = np.flatnonzero(ticks)
        self._value = total[self._at]
        self._latest = t_s[self._at]
        if exact:
            self._earliest = self._latest
        else:
            first = t_s[0] - (refresh_s or 0.0)
            self._earliest = np.concatenate([[first], t_s[self._at[1:] - 1]])
        self._centre = np.maximum.accumulate((self._earliest + self._latest) / 2)
        self._step_at = self._value[1:] - self._value[:-1]
        since = self._earliest[(np.cumsum(ticks) - 1)[:-1]]
        if not exact and method > 1:
            # All that it shows could have come since the last tick: it may have been reset once more, unseen.
            reset |= joules[1:] <= max_power_w * (t_s[1:] - since)
        resets = np.flatnonzero(reset) + 1
        # What was used after the last tick before a reset is not in the counter.
        last_tick = since[resets - 1]
        self._lost_from = t_s[resets - 1] if method == 1 else last_tick
        self._lost_until = t_s[resets]
        self._lost = np.maximum(max_power_w * (t_s[resets] - last_tick) - np.diff(total)[resets - 1], 0.0)

    @property
    def tick_gap_s(self) -> float | None:
        """The median time between ticks in seconds; None with fewer than four ticks."""
        if len(self._at) < 4:
            return None
        return float(np.median(np.diff(self._centre[1:])))

    def between(self, start_s: float, end_s: float) -> Joules:
        """Energy used from `start_s` to `end_s`, both within the sampled time."""
        low_a, central_a, high_a = self._bounds(start_s)
        low_b, central_b, high_b = self._bounds(end_s)
        ceiling = self._max_w * (end_s - start_s)
        low, high = max(0.0, low_b - high_a), max(0.0, high_b - low_a)
        touched = (self._lost_from < end_s) & (self._lost_until > start_s)
        high += sum(self._lost[touched].tolist())
        central = max(0.0, central_b - central_a)
        # A measured tick outranks the assumed maximum power, so the ceiling never undercuts what was seen.
        high = max(min(high, ceiling), low)
        return Joules(min(max(central, low), high), low, high, self._coverage(start_s, end_s))

    def power_w(self, edges_s: Floats) -> Floats:
        """Mean power between consecutive times in watts, interpolated between ticks: `(n,)` to `(n - 1,)`."""
        used: Floats = np.diff(np.interp(edges_s, self._centre, self._value))
        return used / np.diff(edges_s)

    def _bounds(self, x: float) -> tuple[float, float, float]:
        """Lower bound, best figure and upper bound of the energy used up to `x`."""
        before = int(np.searchsorted(self._latest, x, side="right")) - 1  # last tick surely at or before x
        after = int(np.searchsorted(self._earliest, x, side="left"))  # first tick surely at or after x
        value, count = self._value, len(self._value)
        lows, highs = [0.0], []
        if before >= 0:
            lows.append(value[before])
            highs.append(value[before] + self._max_w * (x - self._earliest[before]))
        if before + 1 < count:
            lows.append(value[before + 1] - self._max_w * (self._latest[before + 1] - x))
        if after < count:
            highs.append(value[after])
        low = float(max(lows))
        high = float(min(highs)) if highs else float(value[0])
        central = float(np.interp(x, self._centre, value))
        if x > self._centre[-1] and count > 1:
            # Nothing is known after the last tick: carry on at the power before it.
            span = self._centre[-1] - self._centre[-2]
            power = min(self._step_at[-1] / span, self._max_w) if span > 0 else 0.0
            central = float(value[-1] + power * (x - self._centre[-1]))
        high = max(low, high)
        return low, min(max(central, low), high), high

    def _coverage(self, start_s: float, end_s: float) -> float:
        if end_s <= start_s:
            return 0.0
        inside = self._centre[(self._centre >= start_s) & (self._centre <= end_s)]
        if len(inside) == 0:
            return 0.0
        return float(min(1.0, max(0.0, (inside[-1] - inside[0]) / (end_s - start_s))))
