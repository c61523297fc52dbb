"""How much power may vary between two ticks of a counter, judged by the ticks around.

A tick whose power agrees with a neighbour's most likely holds a level stretch. How far neighbouring ticks usually
differ shows the load's noise and the counter's jitter. Switching faster than the counter moves can average out in
every tick alike; only power samples, where the driver keeps them, betray it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clisonix.meter.ticks import Floats

OWN, USUAL, FAR = 0.5, 2.0, 0.003
"""Weights of the squared difference to the nearer neighbour, of its local median, and of that to the farther one."""
EXPLAINED = 0.3
"""What remains of a difference that a step inside the tick explains."""
NEARBY = 8
SWITCHING = 0.05
"""Samples that differ by more than this share from their tick's mean power show switching, not noise."""
SAMPLED = 0.25
"""Weight of what power samples show; below 1 because an edge cuts a tick at one place only."""
FEW = (0.5, 0.25, 0.12)
"""With one, two or three pieces to judge by, at least this share of the power."""


@dataclass(frozen=True)
class Samples:
    """Power samples: times in seconds and watts, both `(samples,)`."""

    t_s: Floats
    power_w: Floats


def roughness(power_w: Floats, stepped: np.ndarray, tick_s: Floats, samples: Samples | None) -> Floats:
    """Typical variation of power inside each piece, in watts, `(pieces,)`.

    Args:
        power_w: mean power of consecutive pieces, `(pieces,)`.
        stepped: whether a step inside explains a piece's power, `(pieces,)`.
        tick_s: times of the ticks that bound the pieces, seconds, `(pieces + 1,)`.
        samples: power samples of the same device, or None.
    """
    count = len(power_w)
    if count == 0:
        return np.zeros(0)
    change = np.abs(np.diff(power_w))
    left, right = np.concatenate([[np.inf], change]), np.concatenate([change, [np.inf]])
    nearer = np.minimum(left, right)
    nearer[np.isinf(nearer)] = 0.0
    farther = np.maximum(np.where(np.isinf(left), 0.0, left), np.where(np.isinf(right), 0.0, right))
    farther = np.where(stepped, EXPLAINED * farther, farther)
    nearer = np.minimum(nearer, farther)
    usual = typical(nearer, NEARBY, count)
    rough = np.sqrt(OWN * nearer**2 + USUAL * usual**2 + FAR * farther**2)
    if count <= len(FEW):
        rough = np.maximum(rough, FEW[count - 1] * power_w)
    if samples is not None:
        rough = np.sqrt(rough**2 + _inside(power_w, tick_s, samples) ** 2)
    return np.asarray(rough)


def typical(values: Floats, reach: int, count: int) -> Floats:
    """The median of the values within `reach` on each side of `count` places."""
    if len(values) == 0:
        return np.zeros(count)
    padded = np.pad(values, (reach, reach + count - len(values)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)[:count], axis=1))


def _inside(power_w: Floats, tick_s: Floats, samples: Samples) -> Floats:
    """How far power samples lie from the mean power of their tick, where that shows switching."""
    first, last = np.searchsorted(samples.t_s, (tick_s[0], tick_s[-1]))
    t_s, sample_w = samples.t_s[first:last], samples.power_w[first:last]
    count = len(power_w)
    if len(t_s) == 0:
        return np.zeros(count)
    which = np.clip(np.searchsorted(tick_s, t_s, side="right") - 1, 0, count - 1)
    seen = np.bincount(which, minlength=count)
    off = np.bincount(which, np.abs(sample_w - power_w[which]), count) / np.maximum(seen, 1)
    spread = np.maximum(off, typical(off, NEARBY, count))
    return np.where(spread > SWITCHING * power_w, SAMPLED * spread, 0.0)
