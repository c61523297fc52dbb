"""What every source of recordings answers: which streams it holds, their samples in chunks, and its events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.stream import Event, FloatArray

Float64Array = npt.NDArray[np.float64]


class SourceError(ClisonixError):
    """A file that is damaged, truncated, or says of itself what is not so.

    Attributes:
        path: the file.
        offset: byte at which it stops making sense, where that is known.
    """

    def __init__(self, path: Path | str, what: str, offset: int | None = None) -> None:
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{path}{at}: {what}")
        self.path = Path(path)
        self.offset = offset


@dataclass(frozen=True)
class StreamInfo:
    """One stream, as far as headers tell.

    Attributes:
        name: unique within the source.
        channels: a name per channel.
        units: a unit per channel, `""` where the file does not say.
        rate_hz: nominal rate; None for irregular samples.
        clock: streams with an equal clock have comparable times.
        samples: samples in time, gaps not counted; None when only reading everything would tell.
        start_s: time of the first sample on `clock`; None when unknown.
        dtype: of the stored samples.
        gaps_s: `(start, end)` of each stretch that the file itself says was not recorded; None when only reading
            everything would tell.
    """

    name: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float | None
    clock: str = "file"
    samples: int | None = None
    start_s: float | None = None
    dtype: str = "float32"
    gaps_s: tuple[tuple[float, float], ...] | None = ()

    def __post_init__(self) -> None:
        if len(self.units) != len(self.channels):
            raise ClisonixError(f"{self.name}: {len(self.units)} units for {len(self.channels)} channels")
        if self.rate_hz is not None and not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ClisonixError(f"{self.name} has the rate {self.rate_hz} Hz, expected a positive number or None")


@dataclass(frozen=True)
class SourceInfo:
    """What a source holds, without its samples and without anything about the person recorded.

    Attributes:
        streams: in the order of the file.
        events_count: None when only reading everything would tell.
        duration_s: from the first to the last sample of the longest clock; None when unknown.
        format: such as `"EDF+D"`.
        notes: a sentence for everything that is odd, was salvaged, or could not be understood.
        markers: names of the streams that hold events only; `Marker.stream` is one of them.
        damage: the notes that say that something is missing or unreadable which ought to be there.
    """

    streams: tuple[StreamInfo, ...]
    events_count: int | None
    duration_s: float | None
    format: str
    notes: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()

    def stream(self, name: str) -> StreamInfo:
        """The stream of this name.

        Raises:
            ClisonixError: there is none.
        """
        for info in self.streams:
            if info.name == name:
                return info
        raise ClisonixError(f"there is no stream {name!r}{nearest(name, [s.name for s in self.streams])}")


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples of one stream.

    Attributes:
        stream: name of the stream.
        samples: `(channels, time)` float32 in physical units; a value that was not measured is NaN.
        times_s: `(time,)` float64 on the stream's own clock. A step between two of them, or between two chunks, that
            is longer than a period is a gap: nothing was recorded there, and nothing is made up.
        index: how many samples of the stream came before the first of these.
    """

    stream: str
    samples: FloatArray
    times_s: Float64Array
    index: int


@dataclass(frozen=True)
class Marker(Event):
    """An event that knows where it comes from.

    Attributes:
        stream: name of the stream whose clock `time_s` is on; `""` for the clock of the file.
        duration_s: 0 for an instant.
        sample: stream and index of the sample that it was written beside, where it was; its stamp may be unsteady.
    """

    stream: str = ""
    duration_s: float = 0.0
    sample: tuple[str, int] | None = None


@runtime_checkable
class Source(Protocol):
    """Anything that streams can be read from, a part at a time."""

    def inspect(self) -> SourceInfo:
        """What is there, from headers only: nothing that grows with the recording is kept.

        Raises:
            ClisonixError: the source is missing or its headers make no sense.
        """
        ...

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """The samples, from the beginning, in memory that does not grow with the recording.

        Chunks of one stream come in order; those of several streams come roughly in order of time. Each call starts
        anew, and several iterators may be used side by side.

        Args:
            streams: names of the streams wanted; None takes all.
            seconds: longest stretch of a chunk; irregular streams are cut by number instead.

        Raises:
            ClisonixError: an unknown stream, a damaged file, or a length that is not positive.
        """
        ...

    def events(self) -> list[Event]:
        """Instants with labels in order of time, mostly `Marker`s."""
        ...


@runtime_checkable
class ClockedSource(Source, Protocol):
    """A source that also measured how its clocks stand to each other (XDF)."""

    def clock_offsets(self) -> Mapping[str, Float64Array]:
        """For each stream `(measurements, 2)`: time on the stream's clock, and what to add to get the recorder's."""
        ...


class Clocks(Protocol):
    """Brings the streams of a source onto one clock; `load` takes one."""

    def to_common(self, stream: str, times_s: Float64Array) -> Float64Array:
        """Times of the samples of a stream, on the clock that all streams share. Same shape, in order."""
        ...


class Wanted(NamedTuple):
    """Checked arguments of `chunks`."""

    streams: tuple[StreamInfo, ...]
    seconds: float

    def block(self, stream: StreamInfo) -> int:
        """Samples of a chunk: at least 1, and no more than 64 MiB, whatever rate a header claims."""
        most = max(1, (1 << 24) // max(1, len(stream.channels)))
        return max(1, int(min(4096 if stream.rate_hz is None else self.seconds * stream.rate_hz, most)))


def wanted(info: SourceInfo, streams: Sequence[str] | None, seconds: float) -> Wanted:
    """Check the arguments of `Source.chunks`.

    Raises:
        ClisonixError: an unknown stream, or a length that is not a positive number.
    """
    if not (np.isfinite(seconds) and seconds > 0):
        raise ClisonixError(f"chunks of {seconds} s were asked for, expected a positive number of seconds")
    if streams is None:
        return Wanted(info.streams, seconds)
    if isinstance(streams, str):
        raise ClisonixError(f"streams is the text {streams!r}, expected a list of names")
    return Wanted(tuple(info.stream(name) for name in dict.fromkeys(streams)), seconds)


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names with `_2`, `_3`, ... behind those that come again."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        candidate = name
        while candidate in seen:
            seen[name] += 1
            candidate = f"{name}_{seen[name]}"
        seen[candidate] = 1
        result.append(candidate)
    return tuple(result)


def plain(text: str, longest: int = 80) -> str:
    """A name from a file as one line of printable characters, so that it can be shown anywhere."""
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def needs(extra: str, package: str, what: str, error: ImportError) -> ClisonixError:
    """The error for a library that an extra brings."""
    if error.name is not None and error.name.split(".")[0] != package:
        what = f"{what} (the package {package} cannot be loaded: {error})"
    return ClisonixError(f"{what} needs the package {package}: install it with pip install 'clisonix[{extra}]'")


def to_json(info: SourceInfo) -> dict[str, Any]:
    """As plain JSON. Starts are given from the earliest stream of the same clock on, since a date can identify."""
    zero: dict[str, float] = {}
    for stream in info.streams:
        if stream.start_s is not None:
            zero[stream.clock] = min(stream.start_s, zero.get(stream.clock, stream.start_s))
    streams = [
        {
            "name": s.name,
            "channels": list(s.channels),
            "units": list(s.units),
            "rate_hz": s.rate_hz,
            "clock": s.clock,
            "samples": s.samples,
            "start_s": None if s.start_s is None else s.start_s - zero[s.clock],
            "dtype": s.dtype,
            "gaps": None
            if s.gaps_s is None
            else [[a - zero.get(s.clock, 0.0), b - zero.get(s.clock, 0.0)] for a, b in s.gaps_s],
        }
        for s in info.streams
    ]
    return {
        "format": info.format,
        "duration_s": info.duration_s,
        "events": info.events_count,
        "streams": streams,
        "markers": list(info.markers),
        "notes": list(info.notes),
    }
