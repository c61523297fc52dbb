"""EDF, EDF+ and BDF recordings, record by record.

The usual library refuses discontinuous and truncated files, reads all annotations when a file is opened, and opens a
file only once at a time; the layout is simple, so the records are read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from clisonix.fabric.source import Chunk, Float64Array, Marker, SourceError, SourceInfo, StreamInfo, wanted
from clisonix.fabric.sources.base import FileSource, Notes, Pending, even_times, with_notes
from clisonix.fabric.sources.edf_header import EdfHeader, Signal, read_header
from clisonix.fabric.sources.edf_notes import onset, parse_annotations
from clisonix.fabric.stream import Event, FloatArray

_BATCH = 1 << 22


class EdfSource(FileSource):
    """An `.edf` or `.bdf` file.

    Signals of one rate are one stream: `signals`, or `signals_256hz` and so on when there are several. Times count
    from the start of the recording. In a discontinuous file each record keeps the time it was recorded at.
    Annotations are events; so are the trigger codes of a BioSemi `Status` channel, which is then not a signal.
    """

    format = "EDF"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Streams from the header; in a discontinuous file also the start of each record, for the gaps.

        Raises:
            SourceError: it is not EDF or BDF, or its header makes no sense.
        """
        header = self._header
        starts = self._starts
        gaps = _gaps(starts, header.record_s)
        start_s = float(starts[0]) if len(starts) else None
        streams = tuple(
            StreamInfo(
                name=name,
                channels=tuple(s.label for s in signals),
                units=tuple(s.unit for s in signals),
                rate_hz=signals[0].per_record / header.record_s,
                samples=header.records * signals[0].per_record,
                start_s=start_s,
                dtype="int24" if header.width == 3 else "int16",
                gaps_s=gaps,
            )
            for name, signals in self._groups.items()
        )
        duration_s = float(starts[-1] - starts[0]) + header.record_s if len(starts) and streams else None
        events = None if any(s.annotations for s in header.signals) or self._status else 0
        markers = ("Status",) if self._status else ()
        return with_notes(SourceInfo(streams, events, duration_s, header.format, (), markers), self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        want = wanted(self.inspect(), streams, seconds)
        pending = {info.name: Pending(info, want) for info in want.streams}
        groups = {name: signals for name, signals in self._groups.items() if name in pending}
        header, starts = self._header, self._starts
        with self._open() as file:
            if header.record > _BATCH:
                for record in range(header.records):
                    for name, signals in groups.items():
                        for samples, times_s in self._long(file, record, signals, float(starts[record])):
                            yield from pending[name].add(samples, times_s)
            else:
                step = max(1, _BATCH // header.record)
                for first in range(0, header.records, step):
                    records = self._batch(file, first, min(step, header.records - first))
                    for name, signals in groups.items():
                        samples = np.stack([_scaled(_cut(records, s, header.width), s) for s in signals])
                        yield from pending[name].add(samples, self._times(first, len(records), signals[0]))
        for collected in pending.values():
            yield from collected.rest()

    def events(self) -> list[Event]:
        """Annotations with their durations, and trigger codes, in order of time."""
        header = self._header
        found: list[Marker] = []
        with self._open() as file:
            for signal in header.signals:
                if not signal.annotations:
                    continue
                for record in range(header.records):
                    content = self._annotation_bytes(file, record, signal)
                    found += parse_annotations(content, self._notes)
            if self._status is not None:
                found += self._triggers(file, self._status)
        return sorted(found, key=lambda marker: marker.time_s)

    @cached_property
    def _header(self) -> EdfHeader:
        with self._open() as file:
            return read_header(self.path, file, self.path.stat().st_size, self._notes)

    @property
    def _status(self) -> Signal | None:
        """The trigger channel of a BioSemi recorder."""
        if self._header.width != 3:
            return None
        return next((s for s in self._header.signals if s.label == "Status" and s.per_record), None)

    @cached_property
    def _groups(self) -> dict[str, list[Signal]]:
        """Signals of one rate, by the name of their stream."""
        by_rate: dict[int, list[Signal]] = {}
        for signal in self._header.signals:
            if not signal.annotations and signal.per_record and signal is not self._status:
                by_rate.setdefault(signal.per_record, []).append(signal)
        if len(by_rate) == 1:
            return {"signals": next(iter(by_rate.values()))}
        return {f"signals_{n / self._header.record_s:.10g}hz": signals for n, signals in by_rate.items()}

    @cached_property
    def _starts(self) -> Float64Array:
        """When each record begins: as its annotations say in a discontinuous file, one after the other elsewhere."""
        header = self._header
        even: Float64Array = np.arange(header.records, dtype=np.float64) * header.record_s
        first = next((s for s in header.signals if s.annotations), None)
        if first is None or header.records == 0:
            return even
        with self._open() as file:
            if not header.format.endswith("+D"):
                # A fraction of a second that the clock time in the header cannot say.
                return even + (onset(self._annotation_bytes(file, 0, first, 64)) or 0.0)
            said = [onset(self._annotation_bytes(file, r, first, 64)) for r in range(header.records)]
        starts = np.array([np.nan if s is None else s for s in said])
        if np.isnan(starts).any():
            self._notes.say(f"{int(np.isnan(starts).sum())} records do not say when they begin; they follow the last")
            for r in np.flatnonzero(np.isnan(starts)):
                starts[r] = starts[r - 1] + header.record_s if r else 0.0
        if (np.diff(starts) < 0).any():
            self._notes.say("records are not in order of time")
        return starts

    def _times(self, first: int, count: int, signal: Signal) -> Float64Array:
        starts = self._starts[first : first + count, None]
        within = np.arange(signal.per_record) * (self._header.record_s / signal.per_record)
        times_s: Float64Array = (starts + within).ravel()
        return times_s

    def _batch(self, file: BinaryIO, first: int, count: int) -> npt.NDArray[np.uint8]:
        header = self._header
        content = self._read(file, header.begin + first * header.record, count * header.record)
        return np.frombuffer(content, np.uint8).reshape(count, header.record)

    def _long(
        self, file: BinaryIO, record: int, signals: Sequence[Signal], start_s: float
    ) -> Iterator[tuple[FloatArray, Float64Array]]:
        """One record that is too large to be read at once, in parts."""
        header, total = self._header, signals[0].per_record
        step = max(1, _BATCH // (header.width * len(signals)))
        begin = header.begin + record * header.record
        for a in range(0, total, step):
            n = min(step, total - a)
            rows = []
            for signal in signals:
                content = self._read(file, begin + signal.at + a * header.width, n * header.width)
                rows.append(_scaled(_integers(np.frombuffer(content, np.uint8), header.width), signal))
            yield np.stack(rows), even_times(a, n, total / header.record_s, start_s)

    def _annotation_bytes(self, file: BinaryIO, record: int, signal: Signal, most: int = 1 << 22) -> bytes:
        header = self._header
        size = min(signal.per_record * header.width, most)
        return self._read(file, header.begin + record * header.record + signal.at, size)

    def _triggers(self, file: BinaryIO, status: Signal) -> Iterator[Marker]:
        header, before = self._header, 0
        step = max(1, _BATCH // header.record)
        for first in range(0, header.records, step):
            records = self._batch(file, first, min(step, header.records - first))
            codes = _cut(records, status, header.width) & 0xFFFF
            times_s = self._times(first, len(records), status)
            new = np.flatnonzero((codes != 0) & (codes != np.concatenate(([before], codes[:-1]))))
            before = int(codes[-1])
            for i in new:
                yield Marker(float(times_s[i]), int(codes[i]), "Status")

    def _read(self, file: BinaryIO, at: int, size: int) -> bytes:
        file.seek(at)
        content = file.read(size)
        if len(content) < size:
            raise SourceError(self.path, "has become shorter while it was read", at + len(content))
        return content

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise SourceError(self.path, f"cannot be read: {error.strerror or error}") from error


def _cut(records: npt.NDArray[np.uint8], signal: Signal, width: int) -> npt.NDArray[np.int32]:
    return _integers(records[:, signal.at : signal.at + signal.per_record * width], width)


def _integers(content: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.int32]:
    """Little-endian integers of 2 or 3 bytes."""
    flat = np.ascontiguousarray(content)
    if width == 2:
        return flat.view("<i2").ravel().astype(np.int32)
    wide = np.zeros((flat.size // 3, 4), np.uint8)
    wide[:, 1:] = flat.reshape(-1, 3)
    return wide.view("<i4").ravel() >> 8


def _scaled(digital: npt.NDArray[np.int32], signal: Signal) -> FloatArray:
    return ((digital + signal.offset) * signal.gain).astype(np.float32)


def _gaps(starts: Float64Array, record_s: float) -> tuple[tuple[float, float], ...]:
    # A microsecond: onsets are decimal texts.
    at = np.flatnonzero(np.diff(starts) > record_s + 1e-6)
    return tuple((float(starts[i]) + record_s, float(starts[i + 1])) for i in at)
