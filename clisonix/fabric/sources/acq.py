"""BIOPAC AcqKnowledge files through the extra `bioread`; uncompressed ones in parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.fabric.source import Chunk, Marker, SourceError, SourceInfo, StreamInfo, needs, plain, unique, wanted
from clisonix.fabric.sources.base import FileSource, Notes, Pending, even_times, longest, with_notes
from clisonix.fabric.stream import Event, FloatArray


class AcqSource(FileSource):
    """Channels of one rate are one stream: `signals`, or `signals_2000hz` and so on. The markers are events."""

    format = "BIOPAC"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Streams from the headers.

        Raises:
            SourceError: it is not such a file, or damaged.
        """
        file = self._file
        names = unique([plain(str(c.name), 40) or f"ch{i}" for i, c in enumerate(file.channels)])
        streams = tuple(
            StreamInfo(
                name=name,
                channels=tuple(names[i] for i in indices),
                units=tuple(plain(str(file.channels[i].units), 20) for i in indices),
                rate_hz=float(file.channels[indices[0]].samples_per_second),
                samples=max(int(file.channels[i].point_count) for i in indices),
                start_s=0.0,
                dtype=str(file.channels[indices[0]].dtype),
            )
            for name, indices in self._groups.items()
        )
        if self._compressed:
            self._notes.say("it is compressed, so each stream is unpacked as a whole")
        info = SourceInfo(streams, len(file.event_markers or ()), longest(streams), self.format)
        return with_notes(info, self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        want = wanted(self.inspect(), streams, seconds)
        for info in want.streams:
            indices, pending, at = self._groups[info.name], Pending(info, want), 0
            assert info.rate_hz is not None
            for samples in self._packed(indices) if self._compressed else self._parts(indices):
                yield from pending.add(samples, even_times(at, samples.shape[1], info.rate_hz))
                at += samples.shape[1]
            yield from pending.rest()
            if at < (info.samples or 0):
                self._notes.say_damage(f"truncated: {at} of {info.samples} samples of {info.name} are there")

    def events(self) -> list[Event]:
        """The markers that have a time."""
        found = []
        for marker in self._file.event_markers or ():
            time_s = getattr(marker, "time_index", None)
            if time_s is not None and math.isfinite(float(time_s)):
                found.append(Marker(float(time_s), str(marker.text)))
        return sorted(found, key=lambda marker: marker.time_s)

    @cached_property
    def _reader(self) -> Any:  # noqa: ANN401 - the library has no types
        try:
            from bioread.reader import Reader
        except ImportError as error:
            raise needs("bioread", "bioread", "reading BIOPAC files", error) from error
        with self._guard():
            reader = Reader.read_headers(str(self.path))
            if reader.datafile is None or not reader.datafile.channels:
                raise SourceError(self.path, "is not a BIOPAC file, or its header is damaged", 0)
            return reader

    @property
    def _file(self) -> Any:  # noqa: ANN401 - the library has no types
        return self._reader.datafile

    @property
    def _compressed(self) -> bool:
        return bool(self._reader.is_compressed)

    @cached_property
    def _groups(self) -> dict[str, list[int]]:
        by_rate: dict[float, list[int]] = {}
        for i, channel in enumerate(self._file.channels):
            rate_hz = float(channel.samples_per_second)
            if not (math.isfinite(rate_hz) and rate_hz > 0):
                raise SourceError(self.path, f"gives channel {i + 1} the rate {rate_hz} Hz")
            by_rate.setdefault(rate_hz, []).append(i)
        if len(by_rate) == 1:
            return {"signals": next(iter(by_rate.values()))}
        return {f"signals_{rate_hz:.10g}hz": indices for rate_hz, indices in by_rate.items()}

    def _parts(self, indices: list[int]) -> Iterator[FloatArray]:
        """Pieces of these channels, as the library streams them."""
        held: list[list[FloatArray]] = [[] for _ in indices]
        with self._guard(), self.path.open("rb") as file:
            reader = type(self._reader)(file)
            reader._read_headers()
            for buffers in reader.stream(channel_indexes=indices):
                for row, i in zip(held, indices, strict=True):
                    raw = np.asarray(buffers[i].buffer)
                    channel = reader.datafile.channels[i]
                    if raw.dtype.kind in "iu":
                        raw = raw * float(channel.raw_scale_factor) + float(channel.raw_offset)
                    row.append(raw.astype(np.float32))
                ready = min(sum(map(len, row)) for row in held)
                if ready:
                    joined = [np.concatenate(row) for row in held]
                    held = [[row[ready:]] for row in joined]
                    yield np.stack([row[:ready] for row in joined])
        rest = [np.concatenate(row) if row else np.zeros(0, np.float32) for row in held]
        yield from _padded(rest)

    def _packed(self, indices: list[int]) -> Iterator[FloatArray]:
        with self._guard():
            file = type(self._reader).read(str(self.path), channel_indexes=indices).datafile
            rows = [np.asarray(file.channels[i].data, np.float32) for i in indices]
        yield from _padded(rows)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """The library's own errors may quote any bytes of the file, so they are not shown."""
        try:
            yield
        except (SourceError, GeneratorExit):
            raise
        except Exception as error:
            raise SourceError(self.path, "cannot be read as a BIOPAC file; it may be truncated or damaged") from error


def _padded(rows: list[FloatArray]) -> Iterator[FloatArray]:
    """Rows of unlike length as one array, NaN behind the shorter ones."""
    length = max((len(row) for row in rows), default=0)
    if length:
        samples = np.full((len(rows), length), np.nan, np.float32)
        for target, row in zip(samples, rows, strict=True):
            target[: len(row)] = row
        yield samples
