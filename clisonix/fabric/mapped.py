"""Recordings of 16-bit integers left in their files: only what a window holds is ever read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.records import Records
from clisonix.fabric.source import Marker
from clisonix.fabric.stream import Event, Int16Array, Recording, Stream

_FULL_SCALE = np.float32(1 / 32768)


def mapped(path: Path | str, *, name: str = "recording") -> Recording:
    """Map an EDF file, or a WAV file of 16-bit samples, without reading its samples.

    The same recording as `load(open_source(path))` to rounding, in the memory of a header. Gains are applied to
    windows as they are cut.

    Args:
        path: the file; it must stay as it is while the recording is used.
        name: of the recording.

    Raises:
        ClisonixError: neither format, samples of another width, a discontinuous or a truncated file: `load` those.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            begin = file.read(12)
    except OSError as error:
        raise ClisonixError(f"{path} cannot be opened: {error.strerror}") from error
    if begin[:4] == b"RIFF" and begin[8:] == b"WAVE":
        return Recording(name, {"audio": _wav(path)})
    if begin[:8] == b"0       ":
        return _edf(path, name)
    raise ClisonixError(f"{path} is neither EDF nor WAV, which are the formats that can be mapped; load it instead")


def _wav(path: Path) -> Stream:
    form: tuple[Any, ...] | None = None
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            chunk, length = struct.unpack("<4sI", head)
            if chunk == b"fmt " and length >= 16:
                form = struct.unpack("<HHIIHH", file.read(16))
                length -= 16
            elif chunk == b"data":
                break
            file.seek(length + length % 2, 1)
        else:
            raise ClisonixError(f"{path} holds no audio data; is it truncated?")
        at = file.tell()
    # 0xFFFE names the same coding at greater length.
    if form is None or form[0] not in (1, 0xFFFE) or form[5] != 16 or not 0 < form[1] <= 1024 or form[2] == 0:
        raise ClisonixError(f"{path} is not WAV of 16-bit samples, so it cannot be mapped; load it instead")
    channels, rate_hz = form[1], float(form[2])
    frames = min(length, size - at) // (2 * channels)
    if length > size - at:
        raise ClisonixError(f"{path} is truncated at byte {size}; load it to get what is there")
    samples = _map(path, at, (frames, channels)).T
    return Stream(samples, rate_hz, 0.0, tuple(f"audio{i}" for i in range(channels)), "FS", scale=float(_FULL_SCALE))


def _edf(path: Path, name: str) -> Recording:
    from clisonix.fabric.sources.base import Notes
    from clisonix.fabric.sources.edf import EdfSource
    from clisonix.fabric.sources.edf_header import read_header

    source = EdfSource(path)
    info = source.inspect()
    size = path.stat().st_size
    with path.open("rb") as file:
        header = read_header(path, file, size, Notes())
    if header.format.endswith("+D") or header.begin + header.records * header.record > size or not header.records:
        raise ClisonixError(f"{path} is discontinuous, empty or truncated, so it cannot be mapped; load it instead")
    signals = {s.label: s for s in header.signals}
    records = _map(path, header.begin, (header.records, header.record // 2))
    streams: dict[str, Stream] = {}
    for stream in info.streams:
        chosen = [signals[label] for label in stream.channels]
        assert stream.rate_hz is not None
        streams[stream.name] = Stream(
            Records(records, [s.at // 2 for s in chosen], chosen[0].per_record),
            stream.rate_hz,
            stream.start_s or 0.0,
            stream.channels,
            stream.units[0] if len(set(stream.units)) == 1 else "",
            scale=np.array([s.gain for s in chosen], np.float32),
            # What is left of rounding in the header's ranges is none.
            offset=np.array([s.gain * s.offset if abs(s.offset) > 1e-6 else 0.0 for s in chosen], np.float32),
        )
    events = tuple(Event(e.time_s, e.label) for e in source.events() if isinstance(e, Marker | Event))
    return Recording(name, streams, events=events)


def _map(path: Path, at: int, shape: tuple[int, int]) -> Int16Array:
    if 0 in shape:
        return np.zeros(shape, np.int16)
    # A plain array on the map: indexing a memmap goes through Python code.
    found: Int16Array = np.asarray(np.memmap(path, "<i2", "r", at, shape))
    return found
