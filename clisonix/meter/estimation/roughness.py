"""How much power may vary between two ticks of a counter, judged by the ticks around.

A tick whose power agrees with a neighbour's most likely holds a level stretch. How far neighbouring ticks usually
differ shows the load's noise and the counter's jitter. Switching faster than the counter moves can average out in
every tick alike; only power samples, where the driver keeps them, betray it. Samples that follow the counter from
tick to tick also explain what would else count as noise, and so narrow the interval on a load that swings slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clisonix.meter.estimation.tick_grid import Floats, Ints

OWN, USUAL, FAR = 0.5, 2.0, 0.003
"""Weights of the squared difference to the nearer neighbour, of its local median, and of that to the farther one."""
EXPLAINED = 0.3
"""What remains of a difference that a step inside the tick explains."""
NEARBY = 8
FEWEST_SAMPLES = 3
"""In a piece, for its samples to tell how power varied inside."""
WANDER = 0.7
"""Standard error over what samples show: a path within bounds has no tails."""
MISSES = 1.5
"""Variation from tick to tick that power samples follow up to 1 / MISSES of it is known, and no error."""
FEW = (0.5, 0.25, 0.12)
"""With one, two or three pieces to judge by, at least this share of the power."""


@dataclass(frozen=True)
class Samples:
    """Power samples: times in seconds and watts, both `(samples,)`."""

    t_s: Floats
    power_w: Floats


def roughness(power_w: Floats, stepped: np.ndarray) -> Floats:
    """Typical variation of power inside each piece, in watts, `(pieces,)`.

    Args:
        power_w: mean power of consecutive pieces, `(pieces,)`.
        stepped: whether a step inside explains a piece's power, `(pieces,)`.
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
    return np.asarray(rough)


def typical(values: Floats, reach: int, count: int) -> Floats:
    """The median of the values within `reach` on each side of `count` places."""
    if len(values) == 0:
        return np.zeros(count)
    padded = np.pad(values, (reach, reach + count - len(values)), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)[:count], axis=1))


def wander(expected: Callable[[Ints, Floats], Floats], tick_s: Floats, samples: Samples) -> tuple[Floats, Floats]:
    """How far power inside each piece strays from what is expected there, as power samples show it.

    Args:
        expected: power in watts at moments in pieces, given the pieces' numbers and the moments as shares of them.
        tick_s: times of the ticks that bound the pieces, seconds, `(pieces + 1,)`.
        samples: power samples of the same device.

    Returns:
        Two arrays in watts, `(pieces,)`. How far the energy strays inside, on the scale of a random bridge: times the
        piece's length and the root of `share * (1 - share)` it is the standard error in joules at that share of it;
        NaN without samples. And how much variation from tick to tick the samples leave unexplained, by how far their
        means miss the counter's (samples that are themselves means over a second follow no tick); NaN likewise, and
        in pieces without samples of their own.
    """
    count = len(tick_s) - 1
    first, last = np.searchsorted(samples.t_s, (tick_s[0], tick_s[-1]))
    t_s, sample_w = samples.t_s[first:last], samples.power_w[first:last]
    which = np.searchsorted(tick_s, t_s, side="right") - 1
    seen = np.bincount(which, minlength=count)
    places = np.flatnonzero(seen >= FEWEST_SAMPLES)
    if len(places) == 0:
        return np.full(count, np.nan), np.full(count, np.nan)
    off_w = sample_w - expected(which, (t_s - tick_s[which]) / np.diff(tick_s)[which])
    missed_w = np.bincount(which, off_w, count) / np.maximum(seen, 1)
    # The counter knows the sum: what remains is a path from 0 back to 0. So a scale that is off does no harm either.
    path = np.cumsum(off_w - missed_w[which]) / seen[which]
    strayed_w = np.sqrt(6 * np.bincount(which, path**2, count) / np.maximum(seen, 1))
    unexplained_w = np.full(count, np.nan)
    unexplained_w[places] = MISSES * _spread(np.abs(missed_w), places)[places]
    return WANDER * _spread(strayed_w, places), unexplained_w


def _spread(values: Floats, places: Ints) -> Floats:
    """Values known at some places, everywhere, and nowhere below what is typical around."""
    every = np.interp(np.arange(len(values)), places, values[places])
    return np.maximum(every, typical(every, NEARBY, len(values)))
