"""Events timed by the whole shape that two sensors saw, not by one instant of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.line import FloatArray
from clisonix.fabric.clocks.offsets import pairs

_TAPS = 4  # samples before and after that a sample of the slower sensor may hold something of
_ROUNDS = 50
_SETTLED_S = 1e-7


def match_events(
    own_samples: npt.ArrayLike,
    own_s: npt.ArrayLike,
    fabric_samples: npt.ArrayLike,
    fabric_s: npt.ArrayLike,
    own_events_s: npt.ArrayLike,
    fabric_events_s: npt.ArrayLike,
    *,
    around_s: float = 0.15,
) -> FloatArray:
    """Times of paired events on the fabric's clock, made sharper relative to each other.

    A sensor that takes few samples a second shows an edge in two or three of them, and where the edge lies between
    them biases every crossing that is read off. So what the quicker sensor saw, moved in time and weighed over a few
    samples of the slower one, is fitted to what that one saw: one set of weights for all events, a move and a level
    for each (least squares by variable projection; G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413).

    Weights and a move of all events together cannot be told apart, so the mean offset of the events stays what it
    was.

    Args:
        own_samples: `(n,)` channel of the stream, the slower one.
        own_s: `(n,)` its times, increasing.
        fabric_samples: `(m,)` channel that is on the fabric's clock.
        fabric_s: `(m,)` its times, increasing.
        own_events_s: `(k,)` times of events on the own clock, k >= 3, from `edges` for example.
        fabric_events_s: `(k,)` the same events on the fabric's clock, to within a sample of the slower sensor.
        around_s: how much on each side of an event is compared.

    Returns:
        `(k,)` fabric's times of `own_events_s`, for `from_anchors`.

    Raises:
        ClisonixError: fewer than 3 events, times that do not increase, or too few samples round an event.
    """
    times, values = pairs(own_s, own_samples, "samples and times of the stream", least=8)
    fabric_times, seen = pairs(fabric_s, fabric_samples, "samples and times on the fabric's clock", least=8)
    own, fabric = pairs(own_events_s, fabric_events_s, "events", least=3)
    if np.any(np.diff(times) <= 0) or np.any(np.diff(fabric_times) <= 0):
        raise ClisonixError("times of a channel do not increase; remove the jitter of its stamps first")
    period = float(np.median(np.diff(times)))
    near = [np.flatnonzero(np.abs(times - at) <= around_s) for at in own]
    if min(len(rows) for rows in near) < _TAPS:
        raise ClisonixError(f"an event has fewer than {_TAPS} samples within {around_s:g} s; widen around_s")
    rows, event = np.concatenate(near), np.repeat(np.arange(len(own)), [len(rows) for rows in near])
    levels = (event[:, None] == np.arange(len(own))).astype(np.float64)
    slopes = np.gradient(seen, fabric_times)
    taps = period * np.arange(-_TAPS, _TAPS)
    offsets = fabric - own
    for _ in range(_ROUNDS):
        at = (times[rows] + offsets[event])[:, None] + taps
        shapes = np.concatenate([levels, np.interp(at, fabric_times, seen)], axis=1)
        weights = np.linalg.lstsq(shapes, values[rows], rcond=None)[0]
        rest = values[rows] - shapes @ weights
        moved = levels * (np.interp(at, fabric_times, slopes) @ weights[len(own) :])[:, None]
        # What the weights can make up for is no reason to move.
        moved -= shapes @ np.linalg.lstsq(shapes, moved, rcond=None)[0]
        step = np.linalg.lstsq(moved, rest, rcond=1e-6)[0]
        step = np.clip(step - step.mean(), -period / 2, period / 2)
        offsets = offsets + step
        if np.max(np.abs(step)) < _SETTLED_S:
            break
    offsets += float(np.mean(fabric - own) - offsets.mean())
    found: FloatArray = own + offsets
    return found
