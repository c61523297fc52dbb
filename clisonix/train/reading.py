"""One stream of one file, as a recipe asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric import Columns, Event, Stream, StreamInfo, load, open_source
from clisonix.fabric.clocks.streams import StreamClocks, clocks_of
from clisonix.fabric.source import Clocks, Source
from clisonix.train.annotations import labelled
from clisonix.train.data_config import AudioSource, CsvSource, EdfSource, FileSource, OneFileSource

_SHOWN = 8  # names in an error


class Read(NamedTuple):
    """What was in a file: the stream, the events that count, and what the source noted."""

    stream: Stream
    events: list[Event]
    notes: tuple[str, ...]


class RecordingFile:
    """A file of which one stream is wanted. Nothing is read before `read`."""

    def __init__(self, config: OneFileSource, path: Path, *, damaged: str = "fail") -> None:
        """Open it.

        Args:
            config: what the recipe says about it.
            path: where it is.
            damaged: `fail` or `keep`, see `DataConfig`.

        Raises:
            ClisonixError: it cannot be read, or has no such stream or channel.
        """
        self.config, self.path, self.damaged = config, path, damaged
        with self._named():
            self.source: Source = _open(config, path)
            self.info = _choose(config, self.source)

    def clocks(self) -> Clocks:
        """What the source itself says about its clocks."""
        return clocks_of(self.source) if self.info.gaps_s is None else StreamClocks()

    def read(self, clocks: Clocks | None = None) -> Read:
        """The stream on a grid, and its events.

        Args:
            clocks: other ones than the source's own.

        Raises:
            ClisonixError: damaged, unless that is allowed, or without samples.
        """
        name = self.info.name
        rate_hz = self.config.rate_hz if isinstance(self.config, FileSource) else None
        rates: Mapping[str, float] = {} if rate_hz is None else {name: rate_hz}
        with self._named():
            recording = load(self.source, clocks, streams=[name], rates=rates)
            said = self.source.inspect()
            if said.damage and self.damaged == "fail":
                raise ClisonixError(
                    f"{self.path} is truncated or damaged ({said.damage[0]}); a download may be truncated, so fetch "
                    "it again, or set data.damaged=keep to use what is there"
                )
            if name not in recording.streams:
                raise ClisonixError(f"there are no samples of {name} in it")
            return Read(self._cut(recording.streams[name]), self._events(recording.events), said.notes)

    def _cut(self, stream: Stream) -> Stream:
        """The wanted channels, in the order asked for."""
        unit = self.config.unit if isinstance(self.config, CsvSource) and self.config.unit else stream.unit
        channels = _channels(self.config)
        if channels is None or tuple(channels) == stream.channels:
            return replace(stream, unit=unit)
        rows = [stream.channels.index(name) for name in channels]
        units = {self.info.units[row] for row in rows}
        unit = units.pop() if unit == "mixed" and len(units) == 1 else unit
        samples = np.ascontiguousarray(stream.samples[rows])
        return replace(stream, samples=samples, channels=tuple(channels), unit=unit)

    def _events(self, events: Sequence[Event]) -> list[Event]:
        if isinstance(self.config, AudioSource | EdfSource):
            return []
        if isinstance(self.config, CsvSource):
            return list(events)
        if self.config.events is not None:
            return []
        known = self.source.inspect().markers
        for name in self.config.markers or ():
            if name not in known:
                raise ClisonixError(f"there are no markers {name!r}{nearest(name, known)}")
        return labelled(events, self.config.labels, self.config.every_s, self.config.markers)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors that do not say in which file."""
        try:
            yield
        except ClisonixError as error:
            if str(self.path) in str(error):
                raise
            raise ClisonixError(f"{self.path}: {error}") from error


def _open(config: OneFileSource, path: Path) -> Source:
    if isinstance(config, FileSource):
        return open_source(path, rate_hz=config.rate_hz, units=config.units)
    if isinstance(config, CsvSource):
        markers = () if config.marker is None else (config.marker,)
        columns = Columns(tuple(config.channels), config.time, markers)
        return open_source(path, rate_hz=config.rate_hz, columns=columns)
    return open_source(path)


def _channels(config: OneFileSource) -> list[str] | None:
    return None if isinstance(config, AudioSource | CsvSource) else config.channels


def _choose(config: OneFileSource, source: Source) -> StreamInfo:
    """The stream that the recipe means: by name, by its channels, or because there is only one."""
    info = source.inspect()
    channels = _channels(config)
    named = config.stream if isinstance(config, FileSource) else None
    streams = info.streams if named is None else (info.stream(named),)
    if channels is None:
        regular = [s for s in streams if s.rate_hz is not None] or list(streams)
        if len(regular) != 1:
            raise ClisonixError(
                f"it has {len(regular)} streams ({_few([s.name for s in streams])}): name one by the key stream"
            )
        return regular[0]
    for stream in streams:
        if set(channels) <= set(stream.channels):
            return stream
    every = [name for stream in streams for name in stream.channels]
    for name in channels:
        if name not in every:
            raise ClisonixError(f"there is no channel {name!r}{nearest(name, every)}")
    rates = sorted({s.rate_hz or 0.0 for s in streams if set(channels) & set(s.channels)})
    raise ClisonixError(
        f"the channels {_few(channels)} are in streams of their own, with the rates {rates} Hz: name channels of one "
        "in each stream of the recipe"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
