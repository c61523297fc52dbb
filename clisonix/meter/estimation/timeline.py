"""Energy up to a moment, from the ticks of a counter.

Between two ticks only the sum is known. The best figure for a moment in between follows from the neighbours: where
the power of three ticks climbs or falls, one step from the first level to the last, at the place that gives the
middle tick its sum; else a straight line. It depends on the moment alone, never on the window that asks, so the
figures of windows that follow one another add up to that of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from clisonix.meter.estimation.roughness import Samples, roughness, typical, wander
from clisonix.meter.estimation.ticks import CHUNK, Floats, Ints, Ticks
from clisonix.meter.estimation.uncounted import find_missed

REACH = 32
"""Ticks beyond a chunk that speak for its own."""
CLEAR_STEP = 4.0
"""A step is believed where it is so many times the usual difference between neighbouring ticks."""


@dataclass(frozen=True)
class Pieces:
    """Stretches between consecutive ticks of known time, all `(pieces,)`.

    Attributes:
        start_s: time of the tick before.
        gap_s: seconds until the tick after.
        start_j: energy up to the tick before.
        power_w: mean power.
        before_w: mean power of the piece before; of this one where there is none.
        after_w: likewise after.
        step: where the power steps from `before_w` to `after_w`, as a share of the gap; NaN where it does not.
        rough_w: how much power may vary inside, see `roughness`; with power samples what they leave unexplained.
        wander_w: how much it does vary inside as power samples show, see `wander`; NaN without.
        own_s: standard error of the tick before, on its own.
        own_after_s: likewise of the tick after.
        common_s: standard error that all ticks of its chunk have in common.
        tilt_s: by how much the ticks move where the chunk's period is off by its standard error; signed.
        missed_j: standard error of what the counter missed here.
        tick: index of the tick after.
    """

    start_s: Floats
    gap_s: Floats
    start_j: Floats
    power_w: Floats
    before_w: Floats
    after_w: Floats
    step: Floats
    rough_w: Floats
    wander_w: Floats
    own_s: Floats
    own_after_s: Floats
    common_s: Floats
    tilt_s: Floats
    missed_j: Floats
    tick: Ints

    def __len__(self) -> int:
        return len(self.start_s)

    def of(self, chosen: Ints | slice) -> Pieces:
        """Some of the pieces."""
        return Pieces(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def joules(self, share: Floats) -> Floats:
        """Energy from each piece's start to a share of it; beyond 0 to 1 at the piece's own power."""
        stepped = ~np.isnan(self.step) & (share >= 0) & (share <= 1)
        at = np.where(stepped, self.step, 0.0)
        two = self.before_w * np.minimum(share, at) + self.after_w * np.maximum(share - at, 0.0)
        return np.asarray(np.where(stepped, two, self.power_w * share) * self.gap_s)


class Timeline:
    """A counter's energy over time.

    Args:
        t_s: sample times in seconds, not decreasing, `(samples,)`.
        joules: raw counter values; a value below the one before is a reset to zero.
        nominal_s: what the sensor says about its period.
        samples: power samples of the same device, which show what happens between ticks; or None.
    """

    def __init__(self, t_s: Floats, joules: Floats, nominal_s: float, samples: Samples | None = None) -> None:
        self.ticks = Ticks(t_s, joules, nominal_s)
        self.last_s = float(t_s[-1])
        step = np.diff(joules)
        total = np.concatenate([[0.0], np.cumsum(np.where(step < 0, joules[1:], step))])
        reset = np.concatenate([[False], step < 0])[self.ticks.at]
        self._value: Floats = total[self.ticks.at]
        self.missed = find_missed(self.ticks, self._value, reset)
        self._missed_j = np.zeros(len(self.ticks))
        for missed in self.missed:
            self._missed_j[missed.tick] = missed.error_j
            self._value[missed.tick :] += missed.joules
        self._samples = samples
        self._chunks: dict[int, Pieces] = {}

    def around(self, moments_s: Floats) -> tuple[Pieces, Ints]:
        """The pieces that hold some moments, and which piece holds each; the nearest where none does.

        Returns:
            No piece at all where the counter was not seen to move twice.
        """
        tick = np.searchsorted(self.ticks.latest_s, moments_s, side="right") - 1
        last = max(0, (len(self.ticks) - 1) // CHUNK)
        wanted = {int(c) for k in (tick - 1, tick, tick + 1) for c in np.clip(k // CHUNK, 0, last)}
        while True:
            found = [self._chunk(chunk) for chunk in sorted(wanted)]
            pieces = Pieces(*(np.concatenate([getattr(p, f.name) for p in found]) for f in fields(Pieces)))
            # A chunk without a clear tick leaves its moments to a piece that began before it.
            if len(pieces) and (pieces.start_s[0] <= moments_s.min() or min(wanted) == 0):
                break
            if min(wanted) == 0 and max(wanted) == last:
                break
            wanted |= {max(0, min(wanted) - 1), min(last, max(wanted) + 1)}
        holds = np.searchsorted(pieces.start_s, moments_s, side="right") - 1
        return pieces, np.clip(holds, 0, max(0, len(pieces) - 1))

    def joules(self, moments_s: Floats) -> Floats:
        """Energy from the first sample's tick up to some moments, `(moments,)`; needs two ticks."""
        pieces, which = self.around(moments_s)
        found = pieces.of(which)
        return np.asarray(found.start_j + found.joules((moments_s - found.start_s) / found.gap_s))

    def _chunk(self, chunk: int) -> Pieces:
        if chunk not in self._chunks:
            self._chunks[chunk] = self._build(chunk)
        return self._chunks[chunk]

    def _build(self, chunk: int) -> Pieces:
        low, high = chunk * CHUNK, min(len(self.ticks), (chunk + 1) * CHUNK)
        known = self.ticks.known(max(0, low - REACH), min(len(self.ticks), high + REACH))
        index, time_s, own_s, common_s = known.index, known.time_s, known.own_s, known.common_s
        value, gap_s = self._value[index], np.diff(time_s)
        power_w = np.diff(value) / gap_s
        change_w = np.diff(power_w)
        before_w = np.concatenate([power_w[:1], power_w[:-1]])
        after_w = np.concatenate([power_w[1:], power_w[-1:]])
        usual_w = typical(np.abs(change_w), 8, len(power_w))
        step = _steps(power_w, before_w, after_w, usual_w)
        stepped = ~np.isnan(step)
        rough_w = roughness(power_w, stepped)

        def expected(which: Ints, share: Floats) -> Floats:
            two_w = np.where(share < step[which], before_w[which], after_w[which])
            return np.where(stepped[which], two_w, power_w[which])

        wander_w = np.full(len(power_w), np.nan)
        if self._samples is not None and len(power_w):
            wander_w, unexplained_w = wander(expected, time_s, self._samples)
            rough_w = np.fmin(rough_w, unexplained_w)
        # What was missed between two ticks of known time may lie between others that are left out.
        missed = np.cumsum(self._missed_j**2)[index]
        pieces = Pieces(
            time_s[:-1], gap_s, value[:-1], power_w, before_w, after_w, step, rough_w, wander_w,
            own_s[:-1], own_s[1:],
            np.maximum(common_s[:-1], common_s[1:]), known.tilt_s[1:],
            np.sqrt(np.maximum(np.diff(missed), 0.0)), index[1:],
        )  # fmt: skip
        return pieces.of(np.flatnonzero((index[:-1] >= low) & (index[:-1] < high)))


def _steps(power_w: Floats, before_w: Floats, after_w: Floats, usual_w: Floats) -> Floats:
    rise_w = after_w - before_w
    between = (np.minimum(before_w, after_w) < power_w) & (power_w < np.maximum(before_w, after_w))
    clear = between & (np.abs(rise_w) > CLEAR_STEP * usual_w + 0.02 * power_w)
    return np.where(clear, (after_w - power_w) / np.where(clear, rise_w, 1.0), np.nan)
