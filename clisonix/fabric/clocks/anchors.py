"""A clock from a few events that two streams saw both."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.line import agreeing
from clisonix.fabric.clocks.offsets import pairs

_APART = 0.01  # of the time they cover: events that lie this far off a line are other events
_RATE = 0.1  # no clock is this far off
_CRYSTAL_PPM = 100.0  # what a rate may be off when one event cannot tell


def from_anchors(
    own_s: npt.ArrayLike,
    fabric_s: npt.ArrayLike,
    *,
    tolerance_s: float = 0.002,
    anchor_sd_s: float | None = None,
) -> Clock:
    """A clock from times of the same events on both clocks.

    The uncertainty comes from how well the events agree with a line; with few of them that is itself hardly known,
    and Student's t says so: 4 events give wide intervals. Give `anchor_sd_s` where it is known.

    Args:
        own_s: `(n,)` times of the events on the stream's own clock.
        fabric_s: `(n,)` times of the same events on the fabric's clock (see `pair_events`).
        tolerance_s: no event within this of the others' line is an outlier.
        anchor_sd_s: standard deviation of one event's time, if known; needed with fewer than 3 events.

    Raises:
        ClisonixError: no events, too few to judge by, or no majority of them on one line.
    """
    own, fabric = pairs(own_s, fabric_s, "anchors", least=1)
    offsets = fabric - own
    base = float(np.median(offsets))
    offsets = offsets - base
    count, span = len(own), float(np.ptp(own))
    if anchor_sd_s is not None and not (math.isfinite(anchor_sd_s) and anchor_sd_s > 0):
        raise ClisonixError(f"anchor_sd_s is {anchor_sd_s}, expected a positive number of seconds")
    if (count < 3 or span == 0) and anchor_sd_s is None:
        raise ClisonixError(f"{count} anchors do not tell how good they are; give 3 or more, or say anchor_sd_s")
    kept = np.ones(count, np.bool_)
    if count >= 4:
        kept = agreeing(own, offsets, tolerance_s)
        if np.count_nonzero(kept) < max(3, count / 2):
            raise ClisonixError(
                f"only {np.count_nonzero(kept)} of {count} anchors lie on one line; are they the same events?"
            )
    own, offsets = own[kept], offsets[kept]
    centre = float(own.mean())
    along = own - centre
    spread = float(along @ along)
    level = float(offsets.mean())
    slope = float(along @ offsets) / spread if spread > 0 else 0.0
    residuals = offsets - level - slope * along
    degrees = float(len(own) - (2 if spread > 0 else 1))
    residual_sd = math.sqrt(float(residuals @ residuals) / degrees) if degrees > 0 else 0.0
    if residual_sd > _APART * span or abs(slope) > _RATE:
        raise ClisonixError(
            f"{len(own)} anchors lie {residual_sd:.3g} s off their line, at a rate that is {slope:+.1%} off;"
            " are they the same events?"
        )
    sd = residual_sd
    if anchor_sd_s is not None:
        sd, degrees = max(anchor_sd_s, residual_sd), 1e9 if anchor_sd_s >= residual_sd else degrees
    segment = Segment(
        first_s=float(own.min()),
        last_s=float(own.max()),
        reference_s=centre,
        offset_s=base + level,
        rate_ppm=1e6 * slope,
        residual_sd_s=residual_sd,
        offset_sd_s=sd / math.sqrt(len(own)),
        rate_sd_ppm=1e6 * sd / math.sqrt(spread) if spread > 0 else _CRYSTAL_PPM,
        degrees=degrees,
        measurements=len(own),
    )
    return Clock((segment,), method="anchors")


def pair_events(
    own_s: npt.ArrayLike, fabric_s: npt.ArrayLike, *, within_s: float = 0.05
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which event of one stream is which of the other, where either may have missed some.

    The offset at which most events have a partner within `within_s` is taken; the events must not be equally spaced.

    Args:
        own_s: `(n,)` in order.
        fabric_s: `(m,)` in order.
        within_s: how far partners may lie apart once the offset is taken off; drift over the recording included.

    Returns:
        Indices into both, of one length.

    Raises:
        ClisonixError: no two events fit, or two offsets fit equally well.
    """
    own, fabric = np.sort(np.asarray(own_s, np.float64)), np.sort(np.asarray(fabric_s, np.float64))
    if not len(own) or not len(fabric):
        raise ClisonixError(f"{len(own)} and {len(fabric)} events cannot be paired; both streams need some")
    shifts = np.unique(np.round((fabric[None, :] - own[:, None]).ravel() / (within_s / 4)) * (within_s / 4))
    counts = np.array([len(_partners(own + shift, fabric, within_s)[0]) for shift in shifts])
    best = int(np.argmax(counts))
    rivals = shifts[counts == counts[best]]
    if np.ptp(rivals) > 4 * within_s:
        raise ClisonixError(
            f"events fit at the offsets {rivals.min():g} s and {rivals.max():g} s equally well"
            f" ({counts[best]} pairs); pair them by what they mean"
        )
    return _partners(own + float(np.median(rivals)), fabric, within_s)


def _partners(
    own: npt.NDArray[np.float64], fabric: npt.NDArray[np.float64], within_s: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    right = np.clip(np.searchsorted(fabric, own), 1, max(len(fabric) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(fabric) - 1)
    near = np.where(np.abs(fabric[right] - own) < np.abs(fabric[left] - own), right, left)
    rows = np.flatnonzero(np.abs(fabric[near] - own) <= within_s)
    # One partner each: the first of two rivals stays.
    _, first = np.unique(near[rows], return_index=True)
    rows = rows[first]
    return rows, near[rows]
