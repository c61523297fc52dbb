"""One stream of a source on another clock: what two sensors saw both, or somebody noted, says where it belongs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.clocks import Clock, Segment, blind, edges, from_anchors, pair_events
from clisonix.fabric.source import Clocks, Float64Array
from clisonix.fabric.stream import Stream

_WITHIN_S = 0.1  # how far two sensors' edges may lie apart once the offset is off: drift over a recording


@dataclass(frozen=True)
class Realigned:
    """Clocks of a source, one stream of which is on a further clock, as `load` takes them.

    Attributes:
        own: clocks of the source.
        stream: whose clock is changed.
        further: from its time on the source's clock to the recording's.
        events: whether events that belong to no stream in particular move with it.
    """

    own: Clocks
    stream: str
    further: Clock
    events: bool = True

    def to_common(self, stream: str, times_s: Float64Array) -> Float64Array:
        """See `Clocks.to_common`."""
        times = self.own.to_common(stream, times_s)
        moves = stream == self.stream or (self.events and stream == "")
        return self.further(times) if moves else times


def shifted(first_s: float, start_s: float) -> Clock:
    """A clock that moves what was at `first_s` to `start_s` and changes nothing else."""
    # Nothing was measured here, so there are no deviations to state.
    line = Segment(first_s, first_s, first_s, start_s - first_s, 0.0, 0.0, 0.0, 0.0, 1e9, 1)
    return Clock((line,), method="given start")


def by_edges(own: Stream, channel: str, shared: Stream, seen_by: str, *, anchor_sd_s: float | None = None) -> Clock:
    """A clock from the switches that two channels saw both.

    Args:
        own: the stream whose clock is wanted.
        channel: of it.
        shared: a stream on the recording's clock.
        seen_by: channel of that.
        anchor_sd_s: how good a single edge is, for less than three of them.

    Raises:
        ClisonixError: no such channel, no edges, or edges that cannot be paired or lie on no line.
    """
    seen, shown = edges(*_channel(own, channel)), edges(*_channel(shared, seen_by))
    a, b = pair_events(seen.times_s, shown.times_s, within_s=_WITHIN_S)
    return from_anchors(seen.times_s[a], shown.times_s[b], anchor_sd_s=anchor_sd_s)


def by_correlation(own: Stream, channel: str, shared: Stream, seen_by: str, *, max_lag_s: float) -> Clock:
    """A clock from two channels that saw the same; see `clocks.blind`. Arguments as of `by_edges`.

    Raises:
        ClisonixError: no such channel, or too little in common.
    """
    return blind(*_channel(own, channel), *_channel(shared, seen_by), max_lag_s=max_lag_s)


def _channel(stream: Stream, name: str) -> tuple[Float64Array, Float64Array]:
    """Values that were measured, and when."""
    if name not in stream.channels:
        raise ClisonixError(f"there is no channel {name!r}{nearest(name, stream.channels)}")
    values = np.asarray(stream.samples[stream.channels.index(name)], np.float64)
    known = np.isfinite(values)
    times_s = stream.start_s + np.arange(stream.length) / stream.rate_hz
    return values[known], times_s[known]
