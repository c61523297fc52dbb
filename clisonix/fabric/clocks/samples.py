"""A clock from the stamps of a stream's samples alone: jitter removed, lost samples found."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.line import FloatArray, dependence, scale
from clisonix.fabric.clocks.losses import SEEN, IntArray, find_losses, slope_of

_GROSS = 8.0  # robust standard deviations from which a stamp is wrong, not late
_SURE = 3.0  # standard errors between a step and the halfway point to the next whole sample
_LATE = 4.0  # standard errors that a step must have, and standard deviations of the stamps that one back must have
_PAUSE_S = 60.0  # after which a stream starts again, with a rate of its own
_PASSES = 20


def from_samples(
    stamps_s: npt.ArrayLike,
    rate_hz: float | None = None,
    *,
    counter: npt.ArrayLike | None = None,
    modulus: int | None = None,
) -> Clock:
    """A clock from sample index to time.

    Samples come at a steady rate; their stamps jitter. One rate holds for the whole stream; each loss starts a new
    segment, a whole number of samples later where the stamps are good enough to tell which number, so that all
    segments share one line. After a clock was set back, or a pause of a minute, a rate of its own begins.

    What is lost without a trace in the stamps (less than about 6 standard deviations of a second's mean jitter, or
    a single sample under strong jitter) can be found by `counter` only.

    Args:
        stamps_s: `(n,)` stamp of each sample, n >= 3.
        rate_hz: nominal rate; None takes the measured one.
        counter: `(n,)` a number that the device counts up by 1 with each sample, wrapping round at `modulus`.
        modulus: numbers of the counter; None takes the power of two above the largest that was seen.

    Returns:
        A clock whose own time is the index into `stamps_s`; `segments[k].lost` samples are missing before segment k.

    Raises:
        ClisonixError: fewer than 3 stamps, stamps that do not advance, or a counter that does not count samples.
    """
    stamps = np.asarray(stamps_s, np.float64)
    if stamps.ndim != 1 or len(stamps) < 3:
        raise ClisonixError(f"stamps have the shape {stamps.shape}, expected a column of at least 3")
    if not np.isfinite(stamps).all():
        raise ClisonixError("stamps hold values that are not finite; leave those samples out")
    period = slope_of(stamps)
    if not period > 0:
        raise ClisonixError("the stamps do not advance; a clock needs stamps that grow with the samples")
    if rate_hz is None:
        rate_hz = 1.0 / period
    elif not (math.isfinite(rate_hz) and 0.2 < rate_hz * period < 5.0):
        raise ClisonixError(f"the rate {rate_hz} Hz was given, but the stamps advance at {1 / period:g} Hz")
    gaps = np.diff(stamps)
    anew = np.flatnonzero((gaps < -max(1.0, 20 * period)) | (gaps > max(_PAUSE_S, 20 * period))) + 1
    bounds = [0, *anew.tolist(), len(stamps)]
    segments: list[Segment] = []
    count = None if counter is None else np.asarray(counter)
    for start, stop in pairwise(bounds):
        part = stamps[start:stop]
        if len(part) < 3:
            raise ClisonixError(
                f"the clock jumps twice within {len(part)} samples at sample {start}; leave those out"
            )
        own = slope_of(part) if slope_of(part) > 0 else period
        if count is None:
            at, lost = _lost_by_stamps(part, own)
        else:
            at, lost = _lost_by_counter(part, own, count[start:stop], modulus)
        made = _segments(part, at, lost, rate_hz, start)
        if start:
            made[0] = replace(made[0], lost=max(round(float(gaps[start - 1]) / own) - 1, 0))
        segments += made
    return Clock(tuple(segments), rate_hz=rate_hz, method="sample stamps" if count is None else "sample counter")


def _lost_by_stamps(stamps: FloatArray, period: float) -> tuple[IntArray, FloatArray]:
    """First samples after each loss, and how many were lost: a whole number, or NaN where that is not sure."""
    index, gaps = np.arange(len(stamps), dtype=np.float64), np.diff(stamps)
    at = np.empty(0, np.int64)
    residuals = stamps - stamps[0] - period * index
    for _ in range(_PASSES):
        new = np.setdiff1d(find_losses(residuals, gaps, period), at)
        if not len(new):
            break
        at = np.union1d(at, new)
        group = np.searchsorted(at, np.arange(len(stamps)), side="right")
        period, residuals = _within(index, stamps - stamps[0], group)[1:]
    at = _without_delays(stamps - stamps[0], at)
    if not len(at):
        return at, np.empty(0)
    levels, period, step_sd, _ = _steps(stamps - stamps[0], at)
    steps, step_sd = np.diff(levels) / period, step_sd / period
    whole = np.round(steps)
    sure = (whole >= 1) & (_SURE * step_sd < 0.5) & (np.abs(steps - whole) < np.maximum(_SURE * step_sd, 0.02))
    return at, np.where(sure, whole, np.nan)


def _without_delays(stamps: FloatArray, at: IntArray) -> IntArray:
    """Leave out steps that are no losses: ends of delays, and what a rate that wanders does by itself."""
    while len(at):
        levels, _, step_sd, sd = _steps(stamps, at)
        steps = np.diff(levels)
        # A clock that was set back is more than the end of a delay whose beginning was too gentle to be seen.
        weak = np.where((steps < 0) & (steps > -_LATE * sd), 0.0, np.abs(steps) / np.maximum(step_sd, 1e-12))
        weak[np.abs(steps) * SEEN > np.abs(np.diff(stamps)[at - 1])] = 0.0
        if weak.min() < _LATE:
            at = np.delete(at, int(np.argmin(weak)))
            continue
        # Of a pair, the second takes the first back: samples came late.
        both = np.abs(steps[1:] + steps[:-1])
        returned = (steps[:-1] > 0) & (steps[1:] < 0) & (both < 0.5 * np.minimum(steps[:-1], -steps[1:]))
        if not returned.any():
            break
        k = int(np.argmax(returned))
        at = np.delete(at, [k, k + 1])
    return at


def _steps(stamps: FloatArray, at: IntArray) -> tuple[FloatArray, float, FloatArray, float]:
    """Levels of the pieces between losses, common period, standard errors of the steps, deviation of the stamps."""
    group = np.searchsorted(at, np.arange(len(stamps)), side="right")
    levels, period, residuals = _within(np.arange(len(stamps), dtype=np.float64), stamps, group)
    sizes = np.bincount(group)
    sd, ratio = float(np.std(residuals)), dependence(residuals)[0]
    level_sd = sd * np.sqrt(ratio / sizes)
    apart = (sizes[1:] + sizes[:-1]) / 2 * sd * math.sqrt(ratio / float(np.sum(sizes.astype(np.float64) ** 3 / 12)))
    return levels, period, np.sqrt(level_sd[1:] ** 2 + level_sd[:-1] ** 2 + apart**2), sd


def _lost_by_counter(
    stamps: FloatArray, period: float, counter: npt.NDArray[np.generic], modulus: int | None
) -> tuple[IntArray, FloatArray]:
    if counter.shape != stamps.shape:
        raise ClisonixError(f"the counter has the shape {counter.shape}, expected {stamps.shape} as the stamps")
    count = np.asarray(counter, np.float64)
    if not np.array_equal(count, np.round(count)):
        raise ClisonixError("the counter holds values that are not whole numbers; is it the right channel?")
    if modulus is None:
        modulus = 1 << int(np.max(count)).bit_length()
    steps = np.mod(np.diff(count), modulus)
    if np.mean(steps == 1) < 0.5:
        raise ClisonixError("the counter does not go up by 1 with most samples; is it the right channel?")
    missing = np.mod(steps - 1, modulus)
    at = np.flatnonzero(missing) + 1
    # Whole rounds of the counter leave no trace in it: there the stamps must tell.
    seen, _ = _lost_by_stamps(stamps, period)
    at = np.union1d(at, seen)
    if not len(at):
        return at, np.empty(0)
    levels, period, step_sd, _ = _steps(stamps - stamps[0], at)
    part = missing[at - 1]
    more = np.diff(levels) / period - part
    # Rounds are counted only where jitter cannot feign them: short pieces have no level to speak of.
    rounds = np.where(more * period > _LATE * step_sd, np.round(more / modulus), 0.0)
    total = part + modulus * np.maximum(rounds, 0)
    return at[total > 0], total[total > 0]


def _within(index: FloatArray, stamps: FloatArray, group: IntArray) -> tuple[FloatArray, float, FloatArray]:
    """One slope and a level for each group, by least squares without the stamps that are grossly wrong.

    Returns:
        Levels at index 0, the slope, and residuals.
    """
    weights = np.ones_like(stamps)
    levels, slope, residuals = np.zeros(1), 0.0, stamps
    for _ in range(10):
        n = np.bincount(group, weights)
        mean_x, mean_y = np.bincount(group, weights * index) / n, np.bincount(group, weights * stamps) / n
        dx, dy = index - mean_x[group], stamps - mean_y[group]
        slope = float(np.sum(weights * dx * dy) / np.sum(weights * dx * dx))
        levels = mean_y - slope * mean_x
        residuals = stamps - levels[group] - slope * index
        limit = max(_GROSS * scale(residuals), 1e-9)
        new = np.minimum(1.0, limit / np.maximum(np.abs(residuals), 1e-300))
        if np.max(np.abs(new - weights)) < 1e-6:
            break
        weights = new
    return levels, slope, residuals


def _segments(stamps: FloatArray, at: IntArray, lost: FloatArray, rate_hz: float, start: int) -> list[Segment]:
    """Segments of one stretch: losses of a known number of samples share a line, others begin a new level."""
    n = len(stamps)
    piece = np.searchsorted(at, np.arange(n), side="right")
    before = np.concatenate([[0.0], np.cumsum(np.nan_to_num(lost))])
    level_of = np.concatenate([[0], np.cumsum(np.isnan(lost))]).astype(np.int64)
    count, group = np.arange(n) + before[piece], level_of[piece]
    base = stamps[0]
    levels, slope, residuals = _within(count, stamps - base, group)
    ratio, degrees = dependence(residuals)
    sd = float(np.sqrt(np.sum(residuals**2) / max(n - 1 - len(levels), 1)))
    sizes = np.bincount(group)
    middles = np.bincount(group, count) / sizes
    spread = float(np.sum((count - middles[group]) ** 2))
    made = []
    for k, (first, stop) in enumerate(zip([0, *at.tolist()], [*at.tolist(), n], strict=True)):
        g = level_of[k]
        reference = float(start + middles[g] - before[k]) / rate_hz
        step = (levels[g] - levels[level_of[k - 1]]) / slope if k else 0.0
        gone = 0.0 if k == 0 else step if np.isnan(lost[k - 1]) else lost[k - 1]
        made.append(
            Segment(
                first_s=(start + first) / rate_hz,
                last_s=(start + stop - 1) / rate_hz,
                reference_s=reference,
                offset_s=float(base + levels[g] + slope * middles[g]) - reference,
                rate_ppm=1e6 * (slope * rate_hz - 1),
                residual_sd_s=sd,
                offset_sd_s=sd * math.sqrt(ratio / sizes[g]),
                rate_sd_ppm=1e6 * rate_hz * sd * math.sqrt(ratio / spread),
                degrees=degrees,
                measurements=stop - first,
                lost=max(round(gone), 0),
            )
        )
    return made
