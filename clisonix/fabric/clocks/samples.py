"""A clock from the stamps of a stream's samples alone: jitter removed, lost samples found."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.line import FloatArray, dependence
from clisonix.fabric.clocks.losses import SEEN, IntArray, find_losses, slope_of
from clisonix.fabric.clocks.steps import steps_by_earliest, steps_by_mean, within

_SURE = 0.95  # chance from which one number of lost samples is taken for the true one
_MISFIT = 3.5  # standard errors from every whole number: no loss of samples
_NUMBERS = 12  # of lost samples that are weighed on each side of the likeliest
_LATE = 4.0  # standard errors that a step must have, and standard deviations of the stamps that one back must have
_PAUSE_S = 60.0  # after which a stream starts again, with a rate of its own
_PASSES = 20


class _Lost(NamedTuple):
    """First samples after each loss, how many samples it took, and the standard error of that."""

    at: IntArray
    samples: FloatArray
    sds: FloatArray


def from_samples(
    stamps_s: npt.ArrayLike,
    rate_hz: float | None = None,
    *,
    counter: npt.ArrayLike | None = None,
    modulus: int | None = None,
) -> Clock:
    """A clock from sample index to time.

    Samples come at a steady rate; their stamps jitter. One rate holds for the whole stream; each loss starts a new
    segment on the same line, as many samples later as the stamps say: a whole number, as far as they can tell which.
    After a clock was set back, or a pause of a minute, a rate of its own begins.

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
            lost = _lost_by_stamps(part, own)
        else:
            lost = _lost_by_counter(part, own, count[start:stop], modulus)
        made = _segments(part, lost, rate_hz, start)
        if start:
            made[0] = replace(made[0], lost=max(round(float(gaps[start - 1]) / own) - 1, 0))
        segments += made
    return Clock(tuple(segments), rate_hz=rate_hz, method="sample stamps" if count is None else "sample counter")


def _lost_by_stamps(stamps: FloatArray, period: float) -> _Lost:
    index, gaps = np.arange(len(stamps), dtype=np.float64), np.diff(stamps)
    at = np.empty(0, np.int64)
    residuals = stamps - stamps[0] - period * index
    for _ in range(_PASSES):
        new = np.setdiff1d(find_losses(residuals, gaps, period), at)
        if not len(new):
            break
        at = np.union1d(at, new)
        group = np.searchsorted(at, np.arange(len(stamps)), side="right")
        period, residuals = within(index, stamps - stamps[0], group)[1:]
    at = _without_delays(stamps - stamps[0], at)
    if not len(at):
        return _Lost(at, np.empty(0), np.empty(0))
    steps = steps_by_mean(stamps - stamps[0], at)
    sharp = steps_by_earliest(stamps - stamps[0], at, steps.period_s)
    if sharp is not None and np.median(sharp.sds_s) < np.median(steps.sds_s):
        steps = sharp
    return _Lost(at, *_likely(steps.sizes_s / steps.period_s, steps.sds_s / steps.period_s))


def _likely(sizes: FloatArray, sds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of what was lost, in samples, knowing that it was a whole number of them.

    Where stamps tell which number, this is that number; where they tell nothing, this is what they say. A step that
    is far from every whole number for how well it is known was no loss of samples alone, and stays what it is.
    """
    near = np.maximum(np.round(sizes), 1.0)
    whole = np.maximum(near[:, None] + np.arange(-_NUMBERS, _NUMBERS + 1), 1.0)
    sd = np.maximum(sds, 1e-3)[:, None]
    chances = np.exp(-0.5 * ((whole - sizes[:, None]) ** 2 - (near - sizes)[:, None] ** 2) / sd**2)
    # A number below 1 was pushed up to 1, which must not count for more.
    chances[:, 1:] *= np.diff(whole) > 0
    chances /= chances.sum(1, keepdims=True)
    mean = np.sum(chances * whole, 1)
    spread = np.sqrt(np.sum(chances * (whole - mean[:, None]) ** 2, 1))
    sure = chances.max(1) > _SURE
    mean, spread = np.where(sure, near, mean), np.where(sure, 0.0, spread)
    fits = (np.abs(near - sizes) < np.maximum(_MISFIT * sds, 0.02)) & (sds < _NUMBERS / 4)
    return np.where(fits, mean, sizes), np.where(fits, spread, sds)


def _without_delays(stamps: FloatArray, at: IntArray) -> IntArray:
    """Leave out steps that are no losses: ends of delays, and what a rate that wanders does by itself."""
    while len(at):
        found = steps_by_mean(stamps, at)
        steps = found.sizes_s
        # A clock that was set back is more than the end of a delay whose beginning was too gentle to be seen.
        weak = np.abs(steps) / np.maximum(found.sds_s, 1e-12)
        weak[(steps < 0) & (steps > -_LATE * found.sd_s)] = 0.0
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


def _lost_by_counter(
    stamps: FloatArray, period: float, counter: npt.NDArray[np.generic], modulus: int | None
) -> _Lost:
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
    at = np.union1d(at, _lost_by_stamps(stamps, period).at)
    if not len(at):
        return _Lost(at, np.empty(0), np.empty(0))
    seen = steps_by_mean(stamps - stamps[0], at)
    part = missing[at - 1]
    more = seen.sizes_s / seen.period_s - part
    # Rounds are counted only where jitter cannot feign them: short pieces have no level to speak of.
    rounds = np.where(more * seen.period_s > _LATE * seen.sds_s, np.round(more / modulus), 0.0)
    total = part + modulus * np.maximum(rounds, 0)
    return _Lost(at[total > 0], total[total > 0], np.zeros(np.count_nonzero(total > 0)))


def _segments(stamps: FloatArray, lost: _Lost, rate_hz: float, start: int) -> list[Segment]:
    """Segments of one stretch, which share a line once what was lost is counted."""
    n, at = len(stamps), lost.at
    before = np.concatenate([[0.0], np.cumsum(lost.samples)])
    count = np.arange(n) + before[np.searchsorted(at, np.arange(n), side="right")]
    base = stamps[0]
    (level,), slope, residuals = within(count, stamps - base, np.zeros(n, np.int64))
    ratio, degrees = dependence(residuals)
    sd = float(np.sqrt(np.sum(residuals**2) / max(n - 2 - int(np.count_nonzero(lost.sds)), 1)))
    middle = float(np.mean(count))
    spread = float(np.sum((count - middle) ** 2))
    made = []
    for k, (first, stop) in enumerate(zip([0, *at.tolist()], [*at.tolist(), n], strict=True)):
        reference = float(start + middle - before[k]) / rate_hz
        # A wrong step moves either side by the other's share of the samples.
        others = np.where(np.arange(len(at)) < k, at, n - at).astype(np.float64) / n
        made.append(
            Segment(
                first_s=(start + first) / rate_hz,
                last_s=(start + stop - 1) / rate_hz,
                reference_s=reference,
                offset_s=float(base + level + slope * middle) - reference,
                rate_ppm=1e6 * (slope * rate_hz - 1),
                residual_sd_s=sd,
                offset_sd_s=math.hypot(sd * math.sqrt(ratio / n), slope * float(np.linalg.norm(others * lost.sds))),
                rate_sd_ppm=1e6 * rate_hz * sd * math.sqrt(ratio / spread),
                degrees=degrees,
                measurements=stop - first,
                lost=max(round(float(lost.samples[k - 1])), 0) if k else 0,
            )
        )
    return made
