"""Readers of recording files: WAV/FLAC, CSV, NumPy, EDF/BDF."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.grid import to_grid
from clisonix.fabric.stream import Event, FloatArray, Label, Stream


@dataclass(frozen=True)
class Columns:
    """Where a CSV file keeps what.

    Attributes:
        channels: column names of the samples.
        rate_hz: nominal rate.
        time: column of timestamps in seconds; None when rows are evenly spaced.
        marker: column of event codes; an event is where it becomes something other than 0.
        unit: unit of the channels.
    """

    channels: tuple[str, ...]
    rate_hz: float
    time: str | None = None
    marker: str | None = None
    unit: str = ""


def read_audio(path: Path) -> Stream:
    """Read a WAV or FLAC file as a stream in full scale ±1.

    Raises:
        ClisonixError: missing, not audio, or shorter than its header says.
    """
    import soundfile

    _must_exist(path)
    if path.suffix.lower() == ".wav":
        _check_riff(path)
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ClisonixError(f"{path} cannot be read as audio ({error}); it may be truncated") from error
    names = tuple(f"audio{i}" for i in range(samples.shape[1]))
    return Stream(np.ascontiguousarray(samples.T), float(rate), 0.0, names, "FS")


def _check_riff(path: Path) -> None:
    """Libsndfile quietly returns what is there of a truncated file, so compare the chunk sizes ourselves."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
            raise ClisonixError(f"{path} is not a WAV file, or its first bytes are missing")
        if head[:4] == b"RF64":
            return  # sizes above 4 GiB live in another chunk, which libsndfile checks
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                there = size - file.tell()
                if length > there and length != 0xFFFFFFFF:
                    raise ClisonixError(
                        f"{path} is truncated: its header announces {length} bytes of audio, {there} are there"
                    )
                return
            file.seek(length + length % 2, 1)
    raise ClisonixError(f"{path} is truncated: it holds no audio data")


def read_csv(path: Path, columns: Columns) -> tuple[Stream, list[Event]]:
    """Read a comma-separated file, plain or gzip, with one header line.

    An empty cell or `nan` is a value that was not measured. A row with too few cells is an error, since it
    is what a cut transfer leaves; a cut inside the last number of the last row cannot be seen.

    Returns:
        the stream and the events of its marker column.

    Raises:
        ClisonixError: missing file or column, or a damaged row (with its line number).
    """
    _must_exist(path)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open("rt") as file:
            header = [name.strip() for name in file.readline().split(",")]
            wanted = [c for c in (columns.time, columns.marker, *columns.channels) if c is not None]
            for name in wanted:
                if name not in header:
                    raise ClisonixError(f"{path} has no column {name!r}{nearest(name, header)}")
            rows = file.read().split("\n")
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError, OSError) as error:
        raise ClisonixError(f"{path} cannot be read ({error}); it may be truncated") from error
    table = _parse_rows(path, rows, len(header))
    samples = table[:, [header.index(name) for name in columns.channels]].astype(np.float32)
    start_s, times_s = 0.0, np.arange(len(table)) / columns.rate_hz
    if columns.time is not None:
        try:
            gridded = to_grid(table[:, header.index(columns.time)], samples, rate_hz=columns.rate_hz)
        except ClisonixError as error:
            raise ClisonixError(f"{path}: {error}") from error
        grid, start_s, times_s = gridded.samples, gridded.start_s, gridded.times_s
    else:
        grid = np.ascontiguousarray(samples.T)
    events = [] if columns.marker is None else _events(table[:, header.index(columns.marker)], times_s)
    return Stream(grid, columns.rate_hz, start_s, columns.channels, columns.unit), events


def _parse_rows(path: Path, rows: Sequence[str], width: int) -> np.ndarray:
    while rows and not rows[-1].strip():
        rows = rows[:-1]
    if not rows:
        raise ClisonixError(f"{path} holds a header and no rows")
    table = np.empty((len(rows), width))
    for i, row in enumerate(rows):
        cells = row.split(",")
        if len(cells) != width:
            raise ClisonixError(
                f"{path}, line {i + 2}: {len(cells)} cells where the header names {width}; the file may be truncated"
            )
        try:
            table[i] = [float(cell) if cell.strip() else np.nan for cell in cells]
        except ValueError as error:
            raise ClisonixError(f"{path}, line {i + 2}: {error}") from error
    return table


def _events(codes: np.ndarray, times_s: np.ndarray) -> list[Event]:
    codes = np.nan_to_num(codes)
    onsets = np.flatnonzero((codes != 0) & (codes != np.r_[0, codes[:-1]]))
    return [Event(float(times_s[i]), int(codes[i])) for i in onsets]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy archive. Pickled objects are refused.

    Raises:
        ClisonixError: missing, damaged, or with objects inside.
    """
    _must_exist(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ClisonixError(f"{path} cannot be read as a NumPy archive ({error})") from error


def read_edf(path: Path, channels: Sequence[str]) -> Stream:
    """Read named channels of one rate from an EDF, EDF+ or BDF file, in physical units.

    Header fields about the patient are neither read nor shown.

    Raises:
        ClisonixError: missing, damaged or truncated file, unknown channel, or channels of unlike rate or unit.
    """
    import pyedflib

    _must_exist(path)
    try:
        reader = pyedflib.EdfReader(str(path))
    except OSError as error:
        raise ClisonixError(f"{path} cannot be read as EDF or BDF; it may be truncated") from error
    with reader:
        labels = [label.strip() for label in reader.getSignalLabels()]
        for name in channels:
            if name not in labels:
                raise ClisonixError(f"{path} has no channel {name!r}{nearest(name, labels)}")
        indices = [labels.index(name) for name in channels]
        rates = {float(reader.getSampleFrequency(i)) for i in indices}
        units = {reader.getPhysicalDimension(i).strip() for i in indices}
        if len(rates) != 1 or len(units) != 1:
            raise ClisonixError(
                f"{path}: the channels {', '.join(channels)} have the rates {sorted(rates)} Hz and the units "
                f"{sorted(units)}; name channels of one rate and unit in each stream"
            )
        samples = np.stack([reader.readSignal(i) for i in indices]).astype(np.float32)
    return Stream(samples, rates.pop(), 0.0, tuple(channels), units.pop())


def split_packed(
    arrays: dict[str, np.ndarray],
    *,
    samples: str,
    lengths: str,
    fields: Sequence[str],
) -> list[tuple[FloatArray, dict[str, Label]]]:
    """Cut recordings that were stored end to end apart again.

    Args:
        arrays: a NumPy archive.
        samples: name of the `(time, channels)` array that holds all recordings.
        lengths: name of the `(recordings,)` array of lengths.
        fields: names of `(recordings,)` arrays that say what each recording is.

    Returns:
        for each recording its `(channels, time)` samples and fields.
    """
    for name in (samples, lengths, *fields):
        if name not in arrays:
            raise ClisonixError(f"the archive has no array {name!r}{nearest(name, arrays)}")
    ends = np.cumsum(arrays[lengths])
    if len(ends) == 0 or ends[-1] != len(arrays[samples]):
        raise ClisonixError(
            f"the array {lengths!r} sums to {int(ends[-1]) if len(ends) else 0} samples, "
            f"the array {samples!r} holds {len(arrays[samples])}"
        )
    starts = np.r_[0, ends[:-1]]
    return [
        (
            np.ascontiguousarray(arrays[samples][a:b].T, np.float32),
            {name: _plain(arrays[name][i]) for name in fields},
        )
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def _plain(value: object) -> Label:
    """A NumPy scalar as the int or text that labels are compared by."""
    return int(value) if isinstance(value, np.integer) else str(value)


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise ClisonixError(f"there is no file {path}")
