"""Bring timestamped samples onto a uniform grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.stream import FloatArray

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gridded:
    """Samples on a uniform grid.

    Attributes:
        samples: `(channels, time)` float32; NaN where nothing was received.
        start_s: time of the first grid cell.
        times_s: `(received,)` the smoothed time of every received sample, in the order given.
        segments: number of stretches without a gap.
    """

    samples: FloatArray
    start_s: float
    times_s: Float64Array
    segments: int


def to_grid(times_s: Float64Array, samples: FloatArray, *, rate_hz: float, max_gap_s: float = 0.5) -> Gridded:
    """Smooth jittered arrival times and place the samples on a grid of `rate_hz`.

    Samples arrive in bursts (Bluetooth), so single timestamps are wrong by tens of milliseconds while the
    device's own clock is steady. Within a stretch without a gap, a straight line through (index, time)
    gives each sample its time; the sample goes to the nearest grid cell. A gap longer than `max_gap_s`
    starts a new stretch and stays empty. Of two samples nearest to one cell (a device that runs fast) the later
    one stays. Samples lost inside a shorter gap are not detected: the line then
    spreads the error over the stretch.

    Args:
        times_s: `(received,)` arrival times in seconds.
        samples: `(received, channels)`.
        rate_hz: grid rate, the nominal rate of the device.
        max_gap_s: a longer step between two timestamps is a gap.

    Raises:
        ClisonixError: times that are not finite or jump backwards, or a rate that contradicts the times.
    """
    if len(times_s) == 0:
        raise ClisonixError("a timestamped stream has no samples")
    if not np.isfinite(times_s).all():
        raise ClisonixError(f"{int((~np.isfinite(times_s)).sum())} timestamps are not finite numbers")
    steps = np.diff(times_s)
    # Packets of a burst carry overlapping stamps; the order of the samples is still the device's order.
    if (steps < -max_gap_s).any():
        at = int(np.argmin(steps))
        raise ClisonixError(f"timestamps jump backwards after sample {at}: {times_s[at]} s, then {times_s[at + 1]} s")
    starts = np.r_[0, np.flatnonzero(steps > max_gap_s) + 1]
    ends = np.r_[starts[1:], len(times_s)]
    smooth = np.concatenate([_line(times_s[a:b], rate_hz) for a, b in zip(starts, ends, strict=True)])
    cells = np.rint((smooth - smooth[0]) * rate_hz).astype(np.int64)
    cells -= cells.min()
    count = int(cells.max()) + 1
    span_s = count / rate_hz
    # A wrong unit (milliseconds) or rate would otherwise allocate a grid of mostly nothing.
    if count > 64 * len(times_s) + 64:
        raise ClisonixError(
            f"{len(times_s)} samples span {span_s:.0f} s, which at {rate_hz:g} Hz is a grid of {count} cells: "
            "check the unit of the timestamps and the rate"
        )
    grid = np.full((samples.shape[1], count), np.nan, np.float32)
    grid[:, cells] = samples.T
    return Gridded(grid, float(smooth.min()), smooth, len(starts))


def _line(times_s: Float64Array, rate_hz: float) -> Float64Array:
    """Least-squares line through (index, time); a short stretch takes the nominal rate for its slope."""
    n = len(times_s)
    index = np.arange(n, dtype=np.float64)
    middle, mean = (n - 1) / 2, float(times_s.mean())
    if n < rate_hz:
        slope = 1 / rate_hz
    else:
        slope = float(((index - middle) * (times_s - mean)).sum() / ((index - middle) ** 2).sum())
        if not 0.5 < slope * rate_hz < 2:
            raise ClisonixError(f"timestamps advance at {1 / max(slope, 1e-12):.4g} Hz but {rate_hz:g} Hz was given")
    line: Float64Array = mean + slope * (index - middle)
    return line
