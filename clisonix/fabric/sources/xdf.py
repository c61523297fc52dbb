"""XDF recordings (Lab Streaming Layer), streamed frame by frame.

The usual reader loads whole files, smooths the stamps and guesses clock resets. This one does neither: stamps come
out as they were written, clock offsets beside them, and what to make of both is decided elsewhere.
Specification: https://github.com/sccn/xdf/wiki/Specifications.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from clisonix.fabric.source import Chunk, Float64Array, Marker, SourceError, SourceInfo, StreamInfo, unique, wanted
from clisonix.fabric.sources import xdf_frames as tags
from clisonix.fabric.sources.base import FileSource, Notes, Pending, with_notes
from clisonix.fabric.sources.xdf_frames import Frame, Frames, varlen
from clisonix.fabric.sources.xdf_header import DTYPES, Header, count_in_footer, parse
from clisonix.fabric.sources.xdf_samples import Decoder
from clisonix.fabric.stream import Event

_MOST_HEADER = 1 << 24


@dataclass
class _Entry:
    """What the frames tell about one stream."""

    header: Header
    samples: int = 0
    first_s: float = math.nan
    last_s: float = math.nan
    footer: int | None = None
    offsets: list[tuple[float, float]] = field(default_factory=list)


class XdfSource(FileSource):
    """An `.xdf` file, or one compressed by gzip (`.xdfz`, `.xdf.gz`).

    Text streams, and streams of one integer channel whose type is a marker type, are events; all others are signals.
    Every stream has a clock of its own: only `clock_offsets` tells how they stand to each other. Cut or damaged files
    give what is whole, with a note; a file without a readable stream header is an error with the byte offset.
    """

    format = "XDF"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._entries: dict[int, _Entry] | None = None
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Streams, counts and starts from the heads of the frames; no sample is decoded.

        Raises:
            SourceError: it is not XDF, or no stream header in it can be read.
        """
        entries, names = self._index(), self._names()
        streams = tuple(
            StreamInfo(
                name=names[key],
                channels=entry.header.channels,
                units=entry.header.units,
                rate_hz=entry.header.rate_hz,
                clock=names[key],
                samples=entry.samples,
                start_s=entry.first_s if math.isfinite(entry.first_s) else None,
                dtype=entry.header.format.replace("double64", "float64"),
                gaps_s=None,
            )
            for key, entry in entries.items()
            if not entry.header.markers
        )
        markers = tuple(names[key] for key, entry in entries.items() if entry.header.markers)
        count = sum(entry.samples for entry in entries.values() if entry.header.markers)
        durations = [d for entry in entries.values() if (d := _duration(entry)) is not None]
        info = SourceInfo(streams, count, max(durations, default=None), self.format, (), markers)
        return with_notes(info, self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`; damage met on the way is added to the notes of `inspect`."""
        want = wanted(self.inspect(), streams, seconds)
        keys = {name: key for key, name in self._names().items()}
        pending = {keys[info.name]: Pending(info, want) for info in want.streams}
        decoders = {key: Decoder(self._index()[key].header) for key in pending}
        with self._open() as (file, size):
            frames = Frames(file, size, self._notes)
            for frame, key, begin in self._samples(frames, pending):
                decoder = decoders[key]
                for samples, times_s in decoder.numbers(frames.read, begin, frame.begin + frame.length - begin):
                    yield from pending[key].add(samples, times_s)
                self._check(frames, frame, decoder)
        for collected in pending.values():
            yield from collected.rest()

    def events(self) -> list[Event]:
        """The samples of all marker streams, each with the time on its own stream's clock, in order of time."""
        names = self._names()
        decoders = {key: Decoder(entry.header) for key, entry in self._index().items() if entry.header.markers}
        found: list[Marker] = []
        with self._open() as (file, size):
            frames = Frames(file, size, self._notes)
            for frame, key, begin in self._samples(frames, decoders):
                decoder = decoders[key]
                for time_s, label in decoder.texts(frames.read, begin, frame.begin + frame.length - begin):
                    found.append(Marker(time_s, label, names[key]))
                self._check(frames, frame, decoder)
        return sorted(found, key=lambda marker: marker.time_s if math.isfinite(marker.time_s) else math.inf)

    def clock_offsets(self) -> Mapping[str, Float64Array]:
        """See `ClockedSource.clock_offsets`; in the order in which they were measured, resets and all."""
        return {
            self._names()[key]: np.array(entry.offsets, np.float64).reshape(-1, 2)
            for key, entry in self._index().items()
        }

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, int | None]]:
        try:
            with self.path.open("rb", buffering=1 << 18) as file:
                zipped = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                if zipped:
                    with gzip.open(file, "rb") as unpacked:
                        yield cast(BinaryIO, unpacked), None
                else:
                    yield file, self.path.stat().st_size
        except OSError as error:
            raise SourceError(self.path, f"cannot be read: {error.strerror or 'it is damaged'}") from error

    def _samples(self, frames: Frames, keys: Mapping[int, object]) -> Iterator[tuple[Frame, int, int]]:
        """Frames of samples of these streams, with the byte at which the samples begin."""
        while (frame := frames.step()) is not None:
            if frame.tag != tags.SAMPLES or frame.length < 4:
                continue
            key = int.from_bytes(frames.read(frame.begin, 4), "little")
            if key in keys:
                yield frame, key, frame.begin + 4

    def _check(self, frames: Frames, frame: Frame, decoder: Decoder) -> None:
        if decoder.unstamped_first:
            self._notes.say("a stream begins without a time stamp; its times count from 0")
        if not decoder.whole:
            self._notes.say_damage(f"at byte {frame.begin} a frame of samples does not hold as many as it claims")
            frames.resume_at(decoder.end, "the samples of a frame do not fit its length")

    def _names(self) -> dict[int, str]:
        entries = self._index()
        return dict(zip(entries, unique([entry.header.name for entry in entries.values()]), strict=True))

    def _index(self) -> dict[int, _Entry]:
        if self._entries is not None:
            return self._entries
        entries: dict[int, _Entry] = {}
        with self._open() as (file, size):
            frames = Frames(file, size, self._notes)
            if (magic := frames.read(0, 4)) != b"XDF:":
                raise SourceError(self.path, f"is not an XDF file: it begins with {magic!r}, expected b'XDF:'", 0)
            while (frame := frames.step()) is not None:
                self._enter(entries, frames, frame)
                if frame.cut:
                    frames.skip_to_boundary(frame.begin, "a frame is longer than the file")
            end = size if size is not None else 4
        if not entries:
            why = "; ".join(self._notes.all()) or "the file ends before one"
            raise SourceError(self.path, f"holds no readable stream header ({why}); it may be truncated", end)
        for entry in entries.values():
            # The usual recorder counts one sample less than it writes.
            if entry.footer is not None and abs(entry.footer - entry.samples) > 1:
                self._notes.say(
                    f"{entry.header.name}: the footer counts {entry.footer} samples, the frames {entry.samples}"
                )
        self._entries = entries
        return entries

    def _enter(self, entries: dict[int, _Entry], frames: Frames, frame: Frame) -> None:
        if frame.tag in (tags.HEADER, tags.BOUNDARY) or frame.length < 4:
            return
        head = frames.read(frame.begin, min(frame.length, 22))
        key = int.from_bytes(head[:4], "little")
        if frame.tag == tags.STREAM:
            if frame.length > _MOST_HEADER:
                found: Header | str = f"it takes {frame.length} bytes"
            else:
                found = parse(frames.read(frame.begin + 4, frame.length - 4))
            if isinstance(found, str):
                self._notes.say_damage(f"the stream header at byte {frame.begin} was left out: {found}")
            elif key in entries and found != entries[key].header:
                self._notes.say(f"the second header of {entries[key].header.name} was left out")
            elif key not in entries:
                entries[key] = _Entry(found)
                if found.note:
                    self._notes.say(f"{found.name}: {found.note}")
            return
        entry = entries.get(key)
        if entry is None:
            self._notes.say_damage("frames of a stream without a readable header were left out")
        elif frame.tag == tags.OFFSET and len(head) >= 20:
            time_s, offset_s = struct.unpack_from("<2d", head, 4)
            if math.isfinite(time_s) and math.isfinite(offset_s):
                entry.offsets.append((time_s, offset_s))
        elif frame.tag == tags.FOOTER and frame.length <= _MOST_HEADER:
            entry.footer = count_in_footer(frames.read(frame.begin + 4, frame.length - 4))
        elif frame.tag == tags.SAMPLES:
            _count(entry, head[4:], frame.length - 4)


def _count(entry: _Entry, head: bytes, length: int) -> None:
    """Add the samples that a frame claims, but no more than fit into it, and look at its first stamp."""
    found = varlen(head, 0)
    if found is None:
        return
    header = entry.header
    value = np.dtype(DTYPES[header.format]).itemsize if header.format != "string" else 2
    samples = min(found[0], (length - found[1]) // (1 + value * len(header.channels)))
    if samples <= 0:
        return
    entry.samples += samples
    if len(head) >= found[1] + 9 and head[found[1]] == 8:
        first_s = float(struct.unpack_from("<d", head, found[1] + 1)[0])
        if math.isnan(entry.first_s):
            entry.first_s = first_s
        entry.last_s = first_s + (samples - 1) / header.rate_hz if header.rate_hz else first_s


def _duration(entry: _Entry) -> float | None:
    """Between the first and the last stamp, unless the clock was set back in between."""
    span_s = entry.last_s - entry.first_s
    if math.isfinite(span_s) and span_s >= 0:
        return span_s
    return entry.samples / entry.header.rate_hz if entry.header.rate_hz and entry.samples else None
