"""The clocks of all streams of a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.clocks.clock import Clock
from clisonix.fabric.clocks.line import FloatArray
from clisonix.fabric.clocks.offsets import from_offsets
from clisonix.fabric.clocks.samples import from_samples
from clisonix.fabric.source import ClockedSource, Source


class Row(NamedTuple):
    """A segment of a stream's clock, for tables."""

    stream: str
    clock: str
    segment: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class StreamClocks:
    """A clock for each stream, as `load` takes them.

    Attributes:
        shared: own seconds to the clock that all streams share; a stream that is not in it is on that clock already.
        samples: sample index to own seconds, for streams with a rate.
        notes: what could not be made, a sentence each.
    """

    shared: Mapping[str, Clock] = field(default_factory=dict)
    samples: Mapping[str, Clock] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_common(self, stream: str, times_s: FloatArray) -> FloatArray:
        """Times of all samples of a stream on the shared clock; jitter is removed where the stream has a rate.

        Raises:
            ClisonixError: the times are not those of the whole stream, which the sample clock was made from.
        """
        times = np.asarray(times_s, np.float64)
        if (index := self.samples.get(stream)) is not None:
            expected = sum(s.measurements for s in index.segments)
            if len(times) != expected:
                raise ClisonixError(
                    f"{stream} has {expected} samples, but times of {len(times)} were given; give all"
                )
            times = index(np.arange(len(times)))
        shared = self.shared.get(stream)
        return times if shared is None else shared(times)

    def rows(self) -> Iterator[Row]:
        """Every segment of every clock."""
        for kind, clocks in (("samples", self.samples), ("offsets", self.shared)):
            for name, clock in clocks.items():
                for k, values in enumerate(clock.to_json()["segments"]):
                    yield Row(name, kind, k, values)

    def with_shared(self, stream: str, clock: Clock) -> StreamClocks:
        """The same with another clock for one stream, from anchors for example.

        Raises:
            ClisonixError: there is no such stream.
        """
        known = {*self.shared, *self.samples}
        if stream not in known:
            raise ClisonixError(f"there is no stream {stream!r}{nearest(stream, known)}")
        return StreamClocks({**self.shared, stream: clock}, self.samples, self.notes)


def stamps_of(source: Source) -> dict[str, FloatArray]:
    """The stamps of all samples of each stream. Eight bytes a sample stay in memory; the samples do not."""
    parts: dict[str, list[FloatArray]] = {s.name: [] for s in source.inspect().streams}
    for chunk in source.chunks():
        parts[chunk.stream].append(np.asarray(chunk.times_s, np.float64))
    return {name: np.concatenate(found) if found else np.empty(0) for name, found in parts.items()}


def clocks_of(source: Source, *, stamps: Mapping[str, FloatArray] | None = None) -> StreamClocks:
    """Clocks from what a source itself says: stamps of samples, and measured offsets where it has them.

    Args:
        source: what to read.
        stamps: what `stamps_of` gave, to save reading it again.
    """
    stamps = stamps_of(source) if stamps is None else stamps
    samples: dict[str, Clock] = {}
    shared: dict[str, Clock] = {}
    notes = []
    for info in source.inspect().streams:
        if info.rate_hz is None:
            continue
        try:
            samples[info.name] = from_samples(stamps[info.name], info.rate_hz)
        except ClisonixError as error:
            notes.append(f"{info.name}: stamps are left as they are, because {error}")
    if isinstance(source, ClockedSource):
        for name, table in source.clock_offsets().items():
            if len(table):
                shared[name] = from_offsets(table[:, 0], table[:, 1])
            else:
                notes.append(f"{name}: no clock offsets were measured, so its times are taken as shared")
    return StreamClocks(shared, samples, tuple(notes))
