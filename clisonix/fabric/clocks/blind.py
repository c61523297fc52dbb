"""A clock from two channels that saw the same thing, without anyone saying when."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.line import FloatArray, agreeing
from clisonix.fabric.clocks.offsets import pairs

_OVERSAMPLED = 4  # grid points a sample of the slower channel, so that the peak is round
_ROUNDS = 3  # each takes the drift inside a window out of the next
_NARROW_S = 0.25  # lags that are searched once a line is known
_FEWEST = 4


class _Channel(NamedTuple):
    times: FloatArray
    values: FloatArray


def blind(
    own_samples: npt.ArrayLike,
    own_s: npt.ArrayLike,
    fabric_samples: npt.ArrayLike,
    fabric_s: npt.ArrayLike,
    *,
    window_s: float = 4.0,
    max_lag_s: float = 2.0,
    near_s: float = 0.0,
    least: float = 0.5,
) -> Clock:
    """A clock by cross-correlation of two channels in windows, and a robust line through the lags.

    What is compared is the change from sample to sample, at the bandwidth of the slower channel; the sign of one
    may be the other way round. A constant delay between the two sensors goes into the offset.

    Args:
        own_samples: `(n,)` channel of the stream.
        own_s: `(n,)` its times, increasing.
        fabric_samples: `(m,)` channel that is on the fabric's clock.
        fabric_s: `(m,)` its times.
        window_s: length of a window. Each should hold something that happens, and not look like its neighbours.
        max_lag_s: how far the clocks may be apart, `near_s` taken off.
        near_s: fabric's time minus own time, as far as known.
        least: correlation from which a window counts.

    Raises:
        ClisonixError: channels that overlap too little, or too few windows that agree.
    """
    own, fabric = _channel(own_s, own_samples), _channel(fabric_s, fabric_samples)
    step = max(float(np.median(np.diff(c.times))) for c in (own, fabric)) / _OVERSAMPLED
    level, slope, centre, lag = near_s, 0.0, float(own.times.mean()), max_lag_s
    found = _Lags(np.empty(0), np.empty(0), np.empty(0))
    kept = np.empty(0, np.bool_)
    for _ in range(_ROUNDS):
        moved = _Channel(own.times + level + slope * (own.times - centre), own.values)
        found = _lags(moved, fabric, step, window_s, lag, least)
        if len(found.at) < _FEWEST:
            raise ClisonixError(
                f"{len(found.at)} windows of {window_s:g} s correlate by {least:g} or more, expected"
                f" {_FEWEST} or more; give channels that saw the same thing, a longer overlap, or a larger max_lag_s"
            )
        kept = agreeing(found.at, found.lag, step)
        if np.count_nonzero(kept) < max(_FEWEST, len(kept) / 2):
            raise ClisonixError(
                f"only {np.count_nonzero(kept)} of {len(kept)} windows agree on one line; the channels may repeat"
                " themselves: narrow max_lag_s"
            )
        x = (found.at - level + slope * centre) / (1 + slope)  # back on the own clock
        y = level + slope * (x - centre) + found.lag
        weights = np.where(kept, found.peak**2, 0.0)
        total = float(weights.sum())
        new_centre = float(weights @ x) / total
        along = x - new_centre
        spread = float(weights @ along**2)
        level = float(weights @ y) / total
        slope = float(weights @ (along * (y - level))) / spread if spread > 0 else 0.0
        centre, lag = new_centre, min(lag, _NARROW_S)
    residuals = (y - level - slope * along)[kept]
    # Windows overlap by half, so there is half as much in them as their number says.
    degrees = max(len(residuals) / 2 - 2.0, 1.0)
    residual_sd = math.sqrt(float(np.mean(residuals**2)) * len(residuals) / max(len(residuals) - 2, 1))
    segment = Segment(
        first_s=float(x[kept].min()),
        last_s=float(x[kept].max()),
        reference_s=centre,
        offset_s=level,
        rate_ppm=1e6 * slope,
        residual_sd_s=residual_sd,
        offset_sd_s=residual_sd * math.sqrt(2 / len(residuals)),
        rate_sd_ppm=1e6 * residual_sd * math.sqrt(2 / float(np.sum(along[kept] ** 2))),
        degrees=degrees,
        measurements=len(residuals),
    )
    return Clock((segment,), method="cross-correlation")


class _Lags(NamedTuple):
    at: FloatArray
    lag: FloatArray
    peak: FloatArray


def _channel(times_s: npt.ArrayLike, samples: npt.ArrayLike) -> _Channel:
    times = np.asarray(times_s, np.float64)
    values = np.asarray(samples, np.float64)
    if values.ndim == 1 and values.shape == times.shape:
        times, values = times[np.isfinite(values)], values[np.isfinite(values)]
    times, values = pairs(times, values, "samples and times", least=8)
    if np.any(np.diff(times) <= 0):
        raise ClisonixError(
            "times of a channel do not increase; remove the jitter of its stamps first (from_samples)"
        )
    return _Channel(times, values)


def _smooth(channel: _Channel, grid: FloatArray, width: float) -> FloatArray:
    """Mean over `width` round each point of the grid: what a slower sensor would have seen."""
    steps = np.diff(channel.times)
    area = np.concatenate([[0.0], np.cumsum(steps * (channel.values[1:] + channel.values[:-1]) / 2)])
    return np.asarray(
        (np.interp(grid + width / 2, channel.times, area) - np.interp(grid - width / 2, channel.times, area)) / width
    )


def _lags(own: _Channel, fabric: _Channel, step: float, window_s: float, max_lag_s: float, least: float) -> _Lags:
    """Lag of each window that correlates well, in seconds by which the fabric's channel is later."""
    start = max(own.times[0], fabric.times[0] - max_lag_s)
    stop = min(own.times[-1], fabric.times[-1] + max_lag_s)
    width, reach = max(round(window_s / step), 8), max(math.ceil(max_lag_s / step), 2)
    if stop - start < window_s:
        return _Lags(np.empty(0), np.empty(0), np.empty(0))
    grid = start + step * np.arange(int((stop - start) / step) + 1)
    smooth = step * _OVERSAMPLED
    one = np.diff(_smooth(own, grid, smooth))
    wide = np.concatenate([grid[0] + step * np.arange(-reach, 0), grid, grid[-1] + step * np.arange(1, reach + 1)])
    two = np.diff(_smooth(fabric, wide, smooth))
    # Outside its recording the other channel says nothing.
    inside = (wide[:-1] - smooth >= fabric.times[0]) & (wide[1:] + smooth <= fabric.times[-1])
    two[~inside] = 0.0
    rows = []
    for first in range(0, len(one) - width + 1, max(width // 2, 1)):
        a = one[first : first + width]
        b = two[first : first + width + 2 * reach]
        energy_a = float(a @ a)
        energy_b = np.concatenate([[0.0], np.cumsum(b * b)])
        energy_b = energy_b[width:] - energy_b[:-width]
        if energy_a <= 0:
            continue
        size = 1 << (len(b) + width).bit_length()
        product = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)[: 2 * reach + 1]
        floor = 1e-9 * float(energy_b.max()) + 1e-300
        correlation = np.abs(product) / np.sqrt(energy_a * np.maximum(energy_b, floor))
        k = int(np.argmax(correlation))
        if correlation[k] < least or not 0 < k < len(correlation) - 1:
            continue
        lag = k - reach + _summit(correlation, k)
        middle = float(np.sum(a * a * np.arange(width)) / energy_a)  # where in the window something happened
        rows.append((grid[first] + step * (middle + 0.5), lag * step, float(correlation[k])))
    table = np.array(rows, np.float64).reshape(-1, 3)
    return _Lags(table[:, 0], table[:, 1], table[:, 2])


def _summit(correlation: FloatArray, k: int) -> float:
    """Place of the peak in points from `k`: the parabola through the points above 0.8 of it, up to 4 on each side."""
    reach = 1
    while (
        reach < _OVERSAMPLED
        and k - reach - 1 >= 0
        and k + reach + 1 < len(correlation)
        and min(correlation[k - reach - 1], correlation[k + reach + 1]) > 0.8 * correlation[k]
    ):
        reach += 1
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    bend, tilt, _ = np.polyfit(x, correlation[k - reach : k + reach + 1], 2)
    return float(np.clip(-tilt / (2 * bend), -reach, reach)) if bend < 0 else 0.0
