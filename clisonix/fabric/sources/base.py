"""What the sources that are files share."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Float64Array, SourceInfo, StreamInfo, Wanted
from clisonix.fabric.stream import Event, FloatArray

_MOST_NOTES = 20


class Notes:
    """Sentences about what is odd, each once, and not more than a reader would want."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._damage: dict[str, None] = {}
        self._more = 0

    def say(self, sentence: str) -> None:
        """Note it, unless it is known already."""
        if sentence in self._said:
            return
        if len(self._said) < _MOST_NOTES:
            self._said[sentence] = None
        else:
            self._more += 1

    def say_damage(self, sentence: str) -> None:
        """Note that something is missing or unreadable which ought to be there."""
        self.say(sentence)
        if len(self._damage) < _MOST_NOTES:
            self._damage[sentence] = None

    @property
    def damage(self) -> tuple[str, ...]:
        """What was noted about damage."""
        return tuple(self._damage)

    def all(self) -> tuple[str, ...]:
        """What was noted, in that order."""
        return (*self._said, f"and {self._more} more") if self._more else tuple(self._said)


class FileSource:
    """A source that is one file or folder. It is opened when something is read, so there is nothing to close."""

    format = "file"

    def __init__(self, path: Path | str) -> None:
        """Remember where it is.

        Raises:
            ClisonixError: there is no such file, or it may not be read.
        """
        self.path = Path(path)
        must_be_file(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def events(self) -> list[Event]:
        """None, unless the format knows them."""
        return []


class Pending:
    """Collects pieces of one stream and cuts them into chunks of a set length."""

    def __init__(self, stream: StreamInfo, wanted: Wanted) -> None:
        self.name = stream.name
        self.block = wanted.block(stream)
        self._samples: list[FloatArray] = []
        self._times: list[Float64Array] = []
        self._held = 0
        self._index = 0

    def add(self, samples: FloatArray, times_s: Float64Array) -> Iterator[Chunk]:
        """Take `(channels, time)` samples; yield the chunks that are full now."""
        if times_s.size:
            self._samples.append(samples)
            self._times.append(times_s)
            self._held += times_s.size
        if self._held >= self.block:
            yield from self._cut(self._held - self._held % self.block)

    def rest(self) -> Iterator[Chunk]:
        """What is left at the end."""
        if self._held:
            yield from self._cut(self._held)

    def _cut(self, upto: int) -> Iterator[Chunk]:
        samples = self._samples[0] if len(self._samples) == 1 else np.concatenate(self._samples, axis=1)
        times_s = self._times[0] if len(self._times) == 1 else np.concatenate(self._times)
        self._samples, self._times = [samples[:, upto:].copy()], [times_s[upto:].copy()]
        self._held -= upto
        for a in range(0, upto, self.block):
            b = min(a + self.block, upto)
            yield Chunk(self.name, np.ascontiguousarray(samples[:, a:b]), times_s[a:b], self._index)
            self._index += b - a


def even_times(first: int, count: int, rate_hz: float, start_s: float = 0.0) -> Float64Array:
    """Times of samples `first ...` of a stream that is exactly regular."""
    times: Float64Array = start_s + np.arange(first, first + count, dtype=np.float64) / rate_hz
    return times


def longest(streams: tuple[StreamInfo, ...]) -> float | None:
    """The duration of the longest regular stream; None when no stream tells."""
    lengths = [s.samples / s.rate_hz for s in streams if s.samples is not None and s.rate_hz is not None]
    return max(lengths, default=None)


def with_notes(info: SourceInfo, notes: Notes) -> SourceInfo:
    """The same, with what was noted since."""
    more = tuple(note for note in notes.all() if note not in info.notes)
    return replace(info, notes=info.notes + more, damage=notes.damage)


def must_be_file(path: Path) -> None:
    """Refuse what is missing, a folder, a pipe, or not ours to read, in one sentence.

    Raises:
        ClisonixError: it cannot be read as a file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise ClisonixError(f"there is no file {path}") from error
        raise ClisonixError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise ClisonixError(f"{path} is not a file")
    if not os.access(path, os.R_OK):
        raise ClisonixError(f"cannot read {path}: permission denied")
