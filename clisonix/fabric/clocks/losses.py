"""Where samples were lost inside a stream: steps of its stamps that stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clisonix.fabric.clocks.line import FloatArray, scale

IntArray = npt.NDArray[np.int64]

_LEVEL_S = 1.0  # of stamps that say where the stream is, on each side of a step
_FEWEST = 8
_CERTAIN = 6.0  # robust standard deviations of what levels differ by without a loss
SEEN = 0.5  # of the step must show in the gap itself; jitter may hide the rest
_PERIODS = 0.75  # and at least so many sample periods


def slope_of(stamps: FloatArray) -> float:
    """Seconds a sample, whatever losses, bursts and resets there are: the median over pieces of the stream."""
    n = len(stamps)
    length = max(1, n // 30)
    return float(np.median(stamps[length:] - stamps[:-length])) / length


def find_losses(residuals: FloatArray, gaps: FloatArray, period: float) -> IntArray:
    """Indices of the first samples after a loss, in order.

    A delay is not a loss: after it the samples catch up. So the level before a gap is compared with the level once
    the stream had the time to catch up. Of several steps within a second only the largest is found; look again
    once it is taken out.

    Args:
        residuals: `(n,)` stamps minus what a line through them says.
        gaps: `(n - 1,)` steps of the stamps.
        period: seconds a sample.
    """
    n = len(residuals)
    width = int(np.clip(round(_LEVEL_S / period), _FEWEST, max(_FEWEST, n // 8)))
    if n < 3 * _FEWEST:
        return np.empty(0, np.int64)
    sums = np.concatenate([[0.0], np.cumsum(residuals - np.median(residuals))])
    # How much levels differ where nothing happened.
    grid = (
        np.unique(np.linspace(width, n - width, min(n, 2000)).astype(np.int64))
        if n > 2 * width
        else np.array([n // 2])
    )
    noise = scale(_steps(sums, grid, grid, width, n))
    threshold = max(_CERTAIN * noise, _PERIODS * period)
    at = np.flatnonzero((gaps > 1.5 * period) | (gaps < -0.5 * period)) + 1
    at = at[(at >= _FEWEST) & (at <= n - _FEWEST)]
    if not len(at):
        return np.empty(0, np.int64)
    skip = np.ceil(1.5 * np.maximum(gaps[at - 1], 0.0) / period).astype(np.int64)
    caught_up = np.maximum(at, np.minimum(at + skip, n - np.minimum(width, np.maximum((n - at) // 4, 1))))
    steps = np.abs(_steps(sums, at, caught_up, width, n))
    # At the ends of a stream few samples say what the level is, and they may share one delay.
    shorter = np.minimum(np.minimum(at, width), np.minimum(n - caught_up, width))
    needed = np.where(shorter < width, np.maximum(threshold, _CERTAIN * noise * width / shorter), threshold)
    likely = np.flatnonzero(steps > needed)
    found: list[int] = []
    for k in likely[np.argsort(-steps[likely], kind="stable")].tolist():
        i = int(at[k])
        if all(abs(i - j) > 2 * width for j in found):
            # Means are drawn by neighbours: medians decide, and the place that splits the two levels best.
            before = float(np.median(residuals[max(0, i - width) : i]))
            after = float(np.median(residuals[caught_up[k] : caught_up[k] + width]))
            if abs(after - before) <= needed[k]:
                continue
            near = at[(at > i - width) & (at < i + width)]
            place = _best_place(residuals, near, before, after, width)
            # Where samples are missing the stamps jump; a level that only drifts there is a rate that wanders.
            if gaps[place - 1] / (after - before) > SEEN:
                found.append(place)
    return np.unique(np.array(found, np.int64))


def _steps(sums: FloatArray, before: IntArray, after: IntArray, width: int, n: int) -> FloatArray:
    """Mean of the `width` samples from `after` on, minus mean of those up to `before`."""
    start, stop = np.maximum(before - width, 0), np.minimum(after + width, n)
    return np.asarray((sums[stop] - sums[after]) / (stop - after) - (sums[before] - sums[start]) / (before - start))


def _best_place(residuals: FloatArray, places: IntArray, before: float, after: float, width: int) -> int:
    start, stop = max(0, int(places[0]) - width), int(places[-1]) + width
    part = residuals[start:stop]
    cost = np.concatenate([[0.0], np.cumsum(np.abs(part - before) - np.abs(part - after))])
    return int(places[np.argmin(cost[places - start])])
