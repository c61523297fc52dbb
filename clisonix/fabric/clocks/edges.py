"""When a signal switches between two levels, to a fraction of a sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.line import FloatArray

_SURE = 0.25  # of the swing: an edge comes from below this and goes above 1 minus it, so noise is no edge


class Edges(NamedTuple):
    """Switches of a signal, in order.

    Attributes:
        times_s: `(n,)` when it was half way.
        rising: `(n,)` True where it went up.
        width_s: `(n,)` how long it was in the middle half of its swing; the edge is known to a part of it.
    """

    times_s: FloatArray
    rising: npt.NDArray[np.bool_]
    width_s: FloatArray


def edges(samples: npt.ArrayLike, times_s: npt.ArrayLike, *, apart_s: float = 0.1) -> Edges:
    """Switches of a signal that has two levels: a light sensor, a trigger, a foot switch.

    Each is where the straight line between the two samples round half way crosses it, half way between the levels
    just before and just after.

    Args:
        samples: `(n,)`.
        times_s: `(n,)` increasing; on steady times (`from_samples`), or the jitter goes into the edges.
        apart_s: an edge that comes sooner after the one before than this is taken for ringing, with its partner.

    Raises:
        ClisonixError: different lengths, times that do not increase, or a signal without two levels.
    """
    values, times = np.asarray(samples, np.float64), np.asarray(times_s, np.float64)
    if values.ndim != 1 or values.shape != times.shape:
        raise ClisonixError(
            f"samples and times have the shapes {values.shape} and {times.shape}, expected one length"
        )
    finite = np.isfinite(values)
    values, times = values[finite], times[finite]
    if len(values) < 3 or np.any(np.diff(times) <= 0):
        raise ClisonixError("edges need at least 3 samples whose times increase; remove the jitter of stamps first")
    low, high = np.percentile(values, [1, 99])
    if not high > low:
        raise ClisonixError("the signal has one level only, so it has no edges")
    low, high = np.median(values[values < (low + high) / 2]), np.median(values[values >= (low + high) / 2])
    share = (values - low) / (high - low)
    # -1 below, 1 above, and in between what it was last.
    state = np.where(share < _SURE, -1, np.where(share > 1 - _SURE, 1, 0))
    known = np.flatnonzero(state)
    change = np.flatnonzero(np.diff(state[known]))
    starts, stops = known[change], known[change + 1]
    starts, stops = _without_ringing(starts, stops, times, apart_s)
    found = [_edge(values, times, int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    at, width = (np.array([f[i] for f in found]) for i in range(2))
    return Edges(at, state[stops] > 0, width)


def _without_ringing(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], times: FloatArray, apart_s: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    kept: list[tuple[int, int]] = []
    for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
        if kept and times[a] - times[kept[-1][1]] < apart_s:
            kept.pop()
        else:
            kept.append((a, b))
    pairs = np.array(kept, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _edge(values: FloatArray, times: FloatArray, start: int, stop: int) -> tuple[float, float]:
    """Time half way and time in the middle half, with the levels of the samples around this edge."""
    length = stop - start
    first = max(0, start - length)
    earlier = values[max(0, start - 4 * length) : max(1, first)]
    later = values[stop + length : stop + 4 * length + 1]
    before = float(np.median(earlier))
    after = float(np.median(later)) if len(later) else float(values[stop])
    crossings = []
    for part in (_SURE, 0.5, 1 - _SURE):
        side = values[first : stop + length + 1] - before - part * (after - before)
        side *= np.sign(after - before)
        inside = np.flatnonzero((side[:-1] < 0) & (side[1:] >= 0))
        if not len(inside):
            return float(times[start] + times[stop]) / 2, float(times[stop] - times[start])
        k = int(inside[0])
        share = side[k] / (side[k] - side[k + 1])
        crossings.append(float(times[first + k] + share * (times[first + k + 1] - times[first + k])))
    return crossings[1], crossings[2] - crossings[0]
