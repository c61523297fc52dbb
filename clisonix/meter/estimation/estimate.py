"""Energy during a window from a counter's ticks, with a 95 % interval.

What is unknown lies at the window's edges: where between two ticks the energy was used, and when exactly the ticks
happened. Each tick that an edge cuts contributes an error that grows with the variation of power around it and
vanishes at the ticks themselves, like a random bridge; errors of different ticks add as independent ones do. `BRIDGE`
and `JITTER` are calibrated on simulated loads; `scripts/bench/meter.py` reports the coverage by kind of load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clisonix.meter.estimation.ticks import CHUNK, Floats, Ints
from clisonix.meter.estimation.timeline import Pieces, Timeline
from clisonix.meter.reasons import Flag

BRIDGE = 0.9
"""Error inside a tick, relative to the variation of its energy: for white noise it would be 0.7."""
JITTER = 0.45
"""Error of a tick's own time, likewise: for pure jitter it would be 0.6."""
SIGMAS = 2.0
QUANTUM_J = 0.001
PROVISIONAL = 0.15
"""Beyond the last tick power is taken to go on; it may differ by this share, and by what it varied lately."""
LOCKED = 1.05
"""How far the interval reaches towards the figure that holds if the load began and ended with the window."""
LOCKED_SEEN = 0.5
"""The same where power samples would show it."""


@dataclass(frozen=True)
class Estimate:
    """An amount of energy in joules, its 95 % interval, and what happened meanwhile."""

    joules: float
    low: float
    high: float
    flags: tuple[str, ...]


def estimate(timeline: Timeline, start_s: Floats, end_s: Floats) -> Estimate | None:
    """Energy during disjoint spans in order of time.

    Args:
        timeline: of the counter.
        start_s: where the spans begin, seconds, `(spans,)`.
        end_s: where they end.

    Returns:
        None where the counter was not seen to move twice.
    """
    moments_s = np.concatenate([start_s, end_s])
    pieces, which = timeline.around(moments_s)
    if len(pieces) == 0:
        return None
    found = pieces.of(which)
    share = (moments_s - found.start_s) / found.gap_s
    used = found.start_j + found.joules(share)
    count = len(start_s)
    joules = math.fsum((used[count:] - used[:count]).tolist())
    cut: Ints = np.unique(which)
    error_j2 = (
        _inside(pieces.of(cut), *_cover(cut, which, share, count))
        + _beyond(found, share)
        + _together(found, count)
        + _uncounted(timeline, pieces.tick[cut], start_s, end_s)
        + QUANTUM_J**2
    )
    half_j = SIGMAS * math.sqrt(error_j2)
    locked_j = _locked(found, share, which, count)
    return Estimate(
        joules,
        joules - max(half_j, -locked_j),
        joules + max(half_j, locked_j),
        _flags(timeline, found, float(np.mean(pieces.gap_s)), start_s, end_s),
    )


def _cover(cut: Ints, which: Ints, share: Floats, count: int) -> tuple[Floats, Floats, Floats]:
    """For each piece that an edge cuts: the share covered, and whether the tick before and the tick after are."""
    starts, ends = which[:count], which[count:]
    before = np.searchsorted(starts, cut, side="left") - np.searchsorted(ends, cut, side="left")
    after = np.searchsorted(starts, cut, side="right") - np.searchsorted(ends, cut, side="right")
    sign = np.repeat([-1.0, 1.0], count)
    inside = np.bincount(np.searchsorted(cut, which), sign * np.clip(share, 0.0, 1.0), len(cut))
    return np.clip(inside + after, 0.0, 1.0), before.astype(np.float64), after.astype(np.float64)


def _inside(piece: Pieces, covered: Floats, before: Floats, after: Floats) -> float:
    rough_j = piece.rough_w * piece.gap_s
    seen_j = np.nan_to_num(piece.wander_w) * piece.gap_s
    bridge = (BRIDGE**2 * rough_j**2 + seen_j**2) * covered * (1 - covered)
    off_before, off_after = (before - covered) ** 2, (after - covered) ** 2
    jitter = JITTER**2 / 2 * rough_j**2 * (off_before + off_after)
    timing = piece.power_w**2 * (piece.own_s**2 * off_before + piece.own_after_s**2 * off_after)
    missed = (covered * piece.missed_j) ** 2
    return math.fsum((bridge + jitter + timing + missed).tolist())


def _beyond(found: Pieces, share: Floats) -> float:
    """Of moments before the first tick or after the last, where power is only carried on."""
    beyond_s = (share - np.clip(share, 0.0, 1.0)) * found.gap_s
    change_w = np.maximum(np.abs(found.power_w - found.before_w), np.abs(found.after_w - found.power_w))
    error_w2 = found.rough_w**2 + change_w**2 + (PROVISIONAL * found.power_w) ** 2
    return math.fsum((error_w2 * beyond_s**2).tolist())


def _together(found: Pieces, count: int) -> float:
    """Of errors that ticks fitted together have in common.

    A shift moves energy from one edge to the other where their powers differ; a period that is off stretches the
    time between them.
    """
    signed_w = np.repeat([-1.0, 1.0], count) * found.power_w
    chunk = (found.tick - 1) // CHUNK
    squares = []
    for one in np.unique(chunk):
        here = chunk == one
        shift_j = math.fsum(signed_w[here].tolist()) * float(found.common_s[here].max())
        tilt_j = math.fsum((signed_w[here] * found.tilt_s[here]).tolist())
        squares += [shift_j**2, tilt_j**2]
    return math.fsum(squares)


def _uncounted(timeline: Timeline, cut_ticks: Ints, start_s: Floats, end_s: Floats) -> float:
    """What the counter missed between ticks that lie wholly inside; `_inside` knows of the pieces that are cut."""
    at_edge = set(cut_ticks.tolist())
    errors = [
        m.error_j for m in timeline.missed if m.tick not in at_edge and _covers(timeline, m.tick, start_s, end_s)
    ]
    return math.fsum(error**2 for error in errors)


def _locked(found: Pieces, share: Floats, which: Ints, count: int) -> float:
    """Towards how much more the interval reaches: what holds if whatever differs from the outside lies inside.

    Outside is like further outside then: power up to the start as in the tick before, after the end as in the tick
    after. Only for ticks that one start or one end cuts: within a tick many windows cannot all have it.
    """
    inside = np.clip(share, 0.0, 1.0)
    piece_j, until_j = found.power_w * found.gap_s, found.joules(inside)
    alone = np.bincount(which[:count], minlength=int(which.max()) + 1) <= 1
    alone &= np.bincount(which[count:], minlength=len(alone)) <= 1
    before_j = np.minimum(found.before_w * inside * found.gap_s, piece_j)
    after_j = np.minimum(found.after_w * (1 - inside) * found.gap_s, piece_j)
    rise_j = np.concatenate([(until_j - before_j)[:count], (piece_j - after_j - until_j)[count:]])
    reach = np.where(np.isnan(found.wander_w), LOCKED, LOCKED_SEEN)
    return math.fsum(np.where(alone[which], reach * rise_j, 0.0).tolist())


def _flags(timeline: Timeline, found: Pieces, usual_s: float, start_s: Floats, end_s: Floats) -> tuple[str, ...]:
    flags = []
    touched = [missed for missed in timeline.missed if _covers(timeline, missed.tick, start_s, end_s)]
    if any(not missed.stuck for missed in touched):
        flags.append(Flag.RESET.value)
    if any(missed.stuck for missed in touched):
        flags.append(Flag.STUCK.value)
    # Where samples are dear, the meter itself leaves longer gaps.
    if float(found.gap_s.max()) > max(3.5 * max(timeline.ticks.period_s, usual_s), 0.5):
        flags.append(Flag.GAP.value)
    return tuple(flags)


def _covers(timeline: Timeline, tick: int, start_s: Floats, end_s: Floats) -> bool:
    """Whether a span touches the stretch before a tick."""
    ticks = timeline.ticks
    return bool(np.any((start_s < ticks.latest_s[tick]) & (end_s > ticks.earliest_s[tick - 1])))
