"""WFDB records (PhysioNet): multi-rate, skewed, in segments, with annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Marker, SourceError, SourceInfo, StreamInfo, wanted
from clisonix.fabric.sources.base import FileSource, Notes, Pending, even_times, with_notes
from clisonix.fabric.sources.wfdb_annotations import ANNOTATORS, read_annotations
from clisonix.fabric.sources.wfdb_formats import SignalFile
from clisonix.fabric.sources.wfdb_header import WfdbHeader, WfdbSignal, read_header
from clisonix.fabric.stream import Event, FloatArray
from clisonix.fabric.units import conversion

_BATCH = 1 << 20


@dataclass(frozen=True)
class _Part:
    """A stretch that was recorded in one piece: where it lies in the record, and what is in which file."""

    begin: int
    frames: int
    signals: tuple[WfdbSignal, ...]
    files: tuple[tuple[SignalFile, tuple[WfdbSignal, ...]], ...]


class WfdbSource(FileSource):
    """A record, named by its `.hea` file; the files that the header names lie beside it.

    Signals with equally many samples a frame are one stream: `signals`, or `signals_500hz` and so on. Times count
    from the start of the record. A `~` segment is a gap; a signal that a segment lacks is NaN there. Skew is taken
    out. Annotation files beside the header are events; `Marker.stream` is the annotator.
    """

    format = "WFDB"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Streams from the headers of the record and its segments; annotations are counted.

        Raises:
            ClisonixError: a header makes no sense, or a file that it names is missing.
        """
        parts, rate_hz = self._parts, self._header.rate_hz
        stored = sum(part.frames for part in parts)
        gaps = _gaps(parts, self._frames, rate_hz)
        streams = tuple(
            StreamInfo(
                name=name,
                channels=tuple(s.label for s in signals),
                units=tuple(s.unit for s in signals),
                rate_hz=rate_hz * signals[0].per_frame,
                samples=stored * signals[0].per_frame,
                start_s=parts[0].begin / rate_hz if parts else None,
                dtype="integer",
                gaps_s=gaps,
            )
            for name, signals in self._groups.items()
        )
        info = SourceInfo(
            streams,
            len(self.events()),
            self._frames / rate_hz if self._frames else None,
            self.format,
            (),
            tuple(path.suffix[1:] for path in self._annotation_files),
        )
        return with_notes(info, self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        want = wanted(self.inspect(), streams, seconds)
        pending = {info.name: Pending(info, want) for info in want.streams}
        rate_hz = self._header.rate_hz
        for part in self._parts:
            width = sum(s.per_frame for s in part.signals)
            step = max(1, _BATCH // max(width, 1))
            for first in range(0, part.frames, step):
                count = min(step, part.frames - first)
                found = self._read(part, first, count)
                for name, collected in pending.items():
                    signals = self._groups[name]
                    each = signals[0].per_frame
                    samples = np.full((len(signals), count * each), np.nan, np.float32)
                    for row, signal in zip(samples, signals, strict=True):
                        if (values := found.get(signal.label)) is not None and len(values) == len(row):
                            row[:] = values
                    times_s = even_times((part.begin + first) * each, count * each, rate_hz * each)
                    yield from collected.add(samples, times_s)
        for collected in pending.values():
            yield from collected.rest()

    def events(self) -> list[Event]:
        """The annotations of every annotator, in order of time."""
        found: list[Marker] = []
        for path in self._annotation_files:
            found += read_annotations(path, self._header.rate_hz, path.suffix[1:], self._notes)
        return sorted(found, key=lambda marker: marker.time_s)

    @cached_property
    def _header(self) -> WfdbHeader:
        return read_header(self.path)

    @property
    def _annotation_files(self) -> list[Path]:
        paths = (self.path.with_suffix(f".{name}") for name in ANNOTATORS)
        return [path for path in paths if path.is_file()]

    @cached_property
    def _groups(self) -> dict[str, list[WfdbSignal]]:
        """Signals of one rate, by the name of their stream; in a record of segments, those of all of them."""
        signals: dict[str, WfdbSignal] = {}
        for header in self._headers:
            for signal in header.signals:
                signals.setdefault(signal.label, signal)
        by_rate: dict[int, list[WfdbSignal]] = {}
        for signal in signals.values():
            by_rate.setdefault(signal.per_frame, []).append(signal)
        if len(by_rate) == 1:
            return {"signals": next(iter(by_rate.values()))}
        return {f"signals_{self._header.rate_hz * n:.10g}hz": found for n, found in by_rate.items()}

    @cached_property
    def _headers(self) -> list[WfdbHeader]:
        """The header itself, or those of its segments, the layout first."""
        return [header for _, header in self._segments if header is not None]

    @cached_property
    def _segments(self) -> list[tuple[int, WfdbHeader | None]]:
        """Frames and header of each stretch; None for a gap."""
        main = self._header
        if not main.segments:
            return [(main.frames or 0, main)]
        found: list[tuple[int, WfdbHeader | None]] = []
        for name, frames in main.segments:
            if name == "~":
                found.append((frames, None))
                continue
            path = self.path.with_name(f"{name}.hea")
            if not path.is_file():
                self._notes.say_damage(f"the segment {name} is missing and was left out as a gap")
                found.append((frames, None))
                continue
            header = read_header(path)
            if header.segments or header.rate_hz != main.rate_hz:
                raise SourceError(path, f"does not fit its record, which has {main.rate_hz:g} frames a second", 0)
            found.append((frames, header))
        return found

    @cached_property
    def _frames(self) -> int:
        """Frames of the record, gaps included."""
        said = sum(frames for frames, _ in self._segments)
        there = max((part.begin + part.frames for part in self._parts), default=0)
        return max(said, there) if self._header.segments else there

    @cached_property
    def _parts(self) -> list[_Part]:
        parts, begin = [], 0
        for frames, header in self._segments:
            if header is not None and header.signals:
                part = self._part(begin, frames or header.frames or 0, header)
                if part.frames:
                    parts.append(part)
            begin += frames
        return parts

    def _part(self, begin: int, frames: int, header: WfdbHeader) -> _Part:
        signals = tuple(s for s in header.signals if s.file != "~" and s.format != 0)
        files: list[tuple[SignalFile, tuple[WfdbSignal, ...]]] = []
        for (name, number), group in groupby(signals, key=lambda s: (s.file, s.format)):
            inside = tuple(group)
            width = sum(s.per_frame for s in inside)
            path = self.path.with_name(name)
            if not path.is_file():
                raise ClisonixError(f"{self.path} names the file {name}, which is missing: put it beside the header")
            files.append((SignalFile(path, number, width, inside[0].offset, len(inside)), inside))
        if not files:
            return _Part(begin, 0, signals, ())
        there = max(file.frames for file, _ in files)
        short = [file.path.name for file, _ in files if file.frames < (frames or there)]
        if short:
            said = frames or there
            self._notes.say_damage(
                f"{short[0]} is truncated: {min(f.frames for f, _ in files)} of {said} frames are there"
            )
        return _Part(begin, min(frames, there) if frames else there, signals, tuple(files))

    def _read(self, part: _Part, first: int, count: int) -> dict[str, FloatArray]:
        """`count` frames of every signal in physical units; NaN where nothing was measured."""
        found: dict[str, FloatArray] = {}
        for file, signals in part.files:
            late = max(s.skew for s in signals)
            # Frames that skew reaches for behind the end of the part are of the next one, or not there.
            digital = file.read(first, min(count + late, part.frames - first))
            column = 0
            for signal in signals:
                inside = digital[signal.skew : signal.skew + count, column : column + signal.per_frame].ravel()
                column += signal.per_frame
                values = self._physical(inside, signal, file.missing)
                found[signal.label] = np.full(count * signal.per_frame, np.nan, np.float32)
                found[signal.label][: len(values)] = values
        return found

    def _physical(self, digital: npt.NDArray[np.int32], signal: WfdbSignal, missing: int) -> FloatArray:
        values = (digital.astype(np.float64) - signal.baseline) / signal.gain
        unit = self._units[signal.label]
        if signal.unit != unit:
            if (found := conversion(signal.unit, unit)) is None:
                self._notes.say(f"{signal.label} is in {signal.unit} and in {unit}; what is not in {unit} is masked")
                return np.full(len(values), np.nan, np.float32)
            values = values * found[0] + found[1]
        values[digital == missing] = np.nan
        return values.astype(np.float32)

    @cached_property
    def _units(self) -> dict[str, str]:
        return {signal.label: signal.unit for signals in self._groups.values() for signal in signals}


def _gaps(parts: Sequence[_Part], frames: int, rate_hz: float) -> tuple[tuple[float, float], ...]:
    """Stretches between, and behind, the parts."""
    ends = [0, *(part.begin + part.frames for part in parts)]
    starts = [*(part.begin for part in parts), frames]
    return tuple((a / rate_hz, b / rate_hz) for a, b in zip(ends, starts, strict=True) if b > a)
