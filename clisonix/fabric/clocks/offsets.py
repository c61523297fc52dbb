"""A clock from repeated measurements of the offset between two computers, as LSL makes them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.line import FloatArray, Line, huber_line
from clisonix.fabric.clocks.resets import split_at_resets

_SAME_S = 1e-4  # a residual above this counts as an outlier; what pyxdf takes, so that both agree
_LONE_SD_S = 1e-3  # of one measurement where there are too few to tell: a network round trip within a building


def from_offsets(times_s: npt.ArrayLike, offsets_s: npt.ArrayLike, *, reset_s: float = 0.1) -> Clock:
    """A clock from measured offsets.

    Args:
        times_s: `(n,)` own time of each measurement, in the order they were made.
        offsets_s: `(n,)` fabric's time minus own time.
        reset_s: a step of the offset by more than this, which stays, is a clock that was set, not drift.

    Returns:
        One segment between resets.

    Raises:
        ClisonixError: no measurements, different lengths, or values that are not finite.
    """
    times, offsets = pairs(times_s, offsets_s, "clock offsets", least=1)
    segments = []
    for start, stop in split_at_resets(times, offsets, reset_s):
        segments.append(_segment(times[start:stop], offsets[start:stop]))
    return Clock(tuple(segments), method="clock offsets")


def _segment(times: FloatArray, offsets: FloatArray) -> Segment:
    if len(times) >= 3 and np.ptp(times) > 0:
        return segment_of(huber_line(times, offsets, width=0.0, floor=_SAME_S), times)
    span = float(np.ptp(times))
    slope = float(np.diff(offsets)[0] / np.diff(times)[0]) if len(times) == 2 and span > 0 else 0.0
    return Segment(
        first_s=float(times.min()),
        last_s=float(times.max()),
        reference_s=float(times.mean()),
        offset_s=float(offsets.mean()),
        rate_ppm=1e6 * slope,
        residual_sd_s=0.0,
        offset_sd_s=_LONE_SD_S / math.sqrt(len(times)),
        # Without a second measurement: what crystals of computers may be off.
        rate_sd_ppm=1e6 * _LONE_SD_S * math.sqrt(2) / span if slope else 100.0,
        degrees=1e9,
        measurements=len(times),
    )


def segment_of(line: Line, times: FloatArray) -> Segment:
    """The segment that a line of offset against own time says."""
    return Segment(
        first_s=float(times.min()),
        last_s=float(times.max()),
        reference_s=line.centre,
        offset_s=line.level,
        rate_ppm=1e6 * line.slope,
        residual_sd_s=line.residual_sd,
        offset_sd_s=line.level_sd,
        rate_sd_ppm=1e6 * line.slope_sd,
        degrees=line.degrees,
        measurements=int(np.count_nonzero(line.kept)),
    )


def pairs(one: npt.ArrayLike, two: npt.ArrayLike, what: str, *, least: int) -> tuple[FloatArray, FloatArray]:
    """Two columns of finite numbers of one length.

    Raises:
        ClisonixError: they are not, or there are fewer than `least`.
    """
    a, b = np.asarray(one, np.float64), np.asarray(two, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ClisonixError(f"{what} have the shapes {a.shape} and {b.shape}, expected two columns of one length")
    if len(a) < least:
        raise ClisonixError(f"{len(a)} {what} are too few for a clock, expected at least {least}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ClisonixError(f"{what} hold values that are not finite; leave those rows out")
    return a, b
