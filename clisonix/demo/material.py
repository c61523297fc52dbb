"""Which recordings there are to play, and one of them in memory, whatever its file claims to be."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.load import load
from clisonix.fabric.source import Chunk, Source, SourceInfo
from clisonix.fabric.sources import open_source
from clisonix.fabric.stream import Event, FloatArray, Recording, Stream

ENDINGS = (
    ".xdf",
    ".xdfz",
    ".edf",
    ".bdf",
    ".hea",
    ".wav",
    ".flac",
    ".csv",
    ".csv.gz",
    ".npz",
    ".npy",
    ".parquet",
    ".acq",
)
GENERATED = "generated"
MOST_LISTED = 40
MOST_OF_ONE_FOLDER = 3
MOST_SEEN = 20_000
MOST_BYTES = 48 << 20
"""Of samples in memory; what comes after them is not played."""
UNREADABLE = (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, EOFError)
"""What readers can raise on a file that is something else than it says, beside their own sentences."""


@dataclass(frozen=True)
class Piece:
    """A recording that can be played.

    Attributes:
        key: how addresses name it: its path within the data folder, or `GENERATED`.
        path: where it lies; None if it is made here.
        rates: its different sampling rates, the fastest first.
        what: streams and rates in words.
    """

    key: str
    path: Path | None
    rates: tuple[float, ...]
    what: str


@dataclass(frozen=True)
class Shelf:
    """All that can be played, the most varied first, and what was passed over."""

    pieces: tuple[Piece, ...]
    unreadable: int = 0

    def find(self, key: str) -> Piece | None:
        """The piece of this name; nothing else can be asked for."""
        return next((piece for piece in self.pieces if piece.key == key), None)


def stock(root: Path | None) -> Shelf:
    """Look through a folder of recordings, by headers only, and put the generated piece last.

    Args:
        root: the folder; None if there is none.
    """
    generated = _piece(GENERATED, None, [(s.rate_hz, len(s.samples)) for s in made_up().streams.values()])
    found: list[Piece] = []
    unreadable = 0
    for path in _candidates(root) if root is not None else ():
        try:
            info = open_source(path).inspect()
        except (ClisonixError, *UNREADABLE):
            unreadable += 1
            continue
        steady = [(s.rate_hz, len(s.channels)) for s in info.streams if s.rate_hz is not None]
        if steady and root is not None:
            key = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
            found.append(_piece(key, path, steady))
    found.sort(key=lambda piece: (-len(piece.rates), piece.key))
    return Shelf((*found[:MOST_LISTED], generated), unreadable)


def bring(piece: Piece) -> tuple[Recording, list[str]]:
    """The beginning of a recording in memory and on one clock, and what could not be played of it.

    Raises:
        ClisonixError: nothing of it can be played.
    """
    if piece.path is None:
        return made_up(), []
    notes: list[str] = []
    try:
        source = _Beginning(open_source(piece.path), notes)
        names = [s.name for s in source.inspect().streams if s.rate_hz is not None]
        try:
            streams = dict(load(source).streams)
        except ClisonixError:
            streams = _one_by_one(source, names, notes)
    except UNREADABLE as error:
        raise ClisonixError(
            f"{piece.key} cannot be read ({type(error).__name__}): choose another recording"
        ) from error
    streams = {name: stream for name, stream in streams.items() if stream.length}
    if not streams:
        raise ClisonixError(f"{piece.key} has no stream that can be played: {'; '.join(notes) or 'it is empty'}")
    return Recording(piece.key, streams), list(dict.fromkeys(notes))


def made_up(seed: int = 0, seconds: float = 60.0) -> Recording:
    """Signals of four rates with a gap, for when there is no recording; a formula made them."""
    chance = np.random.default_rng(seed)

    def times(rate_hz: float) -> FloatArray:
        return np.arange(round(seconds * rate_hz), dtype=np.float32) / np.float32(rate_hz)

    t = times(256.0)
    eeg = np.stack([20 * np.sin(2 * np.pi * (9.5 + k / 4) * t) * np.sin(0.4 * t + k) for k in range(4)])
    eeg += chance.normal(0, 6, eeg.shape)
    t = times(64.0)
    beat = np.exp(-(((1.1 * t) % 1.0 - 0.3) ** 2) / 0.01) + 0.4 * np.exp(-(((1.1 * t) % 1.0 - 0.6) ** 2) / 0.02)
    beat[64 * 20 : 64 * 23] = np.nan  # a sensor that slipped
    t = times(32.0)
    wrist = np.stack([np.sin(2 * np.pi * 0.8 * t + k) * (np.sin(0.3 * t) > 0) for k in range(3)])
    wrist += chance.normal(0, 0.03, wrist.shape)
    t = times(8000.0)
    tone = np.sin(2 * np.pi * np.cumsum(110 + 40 * np.sin(1.7 * t)) / 8000) * (np.sin(1.3 * t) > 0.2) * 0.5
    return Recording(
        GENERATED,
        {
            "eeg": Stream(eeg.astype(np.float32), 256.0, 0.0, ("a", "b", "c", "d"), "µV"),
            "audio": Stream(tone.astype(np.float32)[None], 8000.0, 0.0, ("sound",), "FS"),
            "pulse": Stream(beat.astype(np.float32)[None], 64.0, 0.0, ("pulse",), ""),
            "wrist": Stream(wrist.astype(np.float32), 32.0, 0.0, ("x", "y", "z"), "g"),
        },
    )


class _Beginning(Source):
    """A source that ends once enough was read, however long its file goes on when it is unpacked."""

    def __init__(self, source: Source, notes: list[str]) -> None:
        self._source, self._notes = source, notes

    def inspect(self) -> SourceInfo:
        return self._source.inspect()

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        read = 0
        for chunk in self._source.chunks(streams, seconds):
            read += chunk.samples.nbytes + chunk.times_s.nbytes
            if read > MOST_BYTES:
                self._notes.append(f"only the first {MOST_BYTES >> 20} MiB are played")
                return
            yield chunk

    def events(self) -> list[Event]:
        return []


def _one_by_one(source: Source, names: Sequence[str], notes: list[str]) -> dict[str, Stream]:
    streams: dict[str, Stream] = {}
    for name in names:
        try:
            streams |= load(source, streams=[name]).streams
        except ClisonixError as error:
            notes.append(f"not played: {error}")
    return streams


def _candidates(root: Path) -> Iterator[Path]:
    """Files that may be recordings, few of each folder; links are not followed."""
    seen = 0
    inside = root.resolve()
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder)
        seen += len(names)
        if seen > MOST_SEEN or len(here.relative_to(root).parts) > 4:
            below.clear()
        if "BVP.csv" in names or "BVP.csv.gz" in names:  # an Empatica E4 is a folder
            yield here
            continue
        fitting = sorted(name for name in names if name.lower().endswith(ENDINGS) and not name.startswith("."))
        for name in fitting[:MOST_OF_ONE_FOLDER]:
            if (here / name).resolve().is_relative_to(inside) and (here / name).is_file():
                yield here / name


def _piece(key: str, path: Path | None, steady: Sequence[tuple[float | None, int]]) -> Piece:
    rates = sorted({rate for rate, _ in steady if rate is not None and math.isfinite(rate)}, reverse=True)
    channels = sum(count for _, count in steady)
    words = f"{len(steady)} stream{'s' if len(steady) > 1 else ''}, {channels} channel{'s' if channels > 1 else ''}: "
    return Piece(key, path, tuple(rates), words + ", ".join(f"{rate:g} Hz" for rate in rates))
