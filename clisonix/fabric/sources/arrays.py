"""NumPy files: `.npy` mapped into memory, `.npz` member by member and block by block. Objects are refused."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, SourceError, SourceInfo, StreamInfo, plain, wanted
from clisonix.fabric.sources.base import FileSource, Notes, even_times, longest, with_notes

_LARGEST = 1 << 28


class _Array(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    at: int


class NumpySource(FileSource):
    """Arrays `(time,)` or `(time, channels)` of numbers, each a stream.

    The stream of an `.npy` file is `signals`; those of an `.npz` have the names of its arrays, and there the scalars
    `NAME_fs` or `NAME_rate_hz` and `NAME_unit` say what array `NAME` is.
    """

    format = "NumPy"

    def __init__(self, path: Path | str, rate_hz: float | None = None) -> None:
        """Remember where it is.

        Args:
            path: the file.
            rate_hz: rate of the arrays for which the file does not say one.
        """
        super().__init__(path)
        self._rate_hz = rate_hz
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Streams from the headers of the arrays.

        Raises:
            SourceError: damaged, or with objects inside.
        """
        streams = []
        for name, array in self._arrays.items():
            if not 1 <= len(array.shape) <= 2 or array.dtype.kind not in "iufb" or array.shape[0] == 0:
                continue
            channels = array.shape[1] if len(array.shape) == 2 else 1
            if channels == 0 or channels > 65536:
                continue
            rate_hz, unit = self._said(name)
            names = tuple(f"ch{i}" for i in range(channels))
            streams.append(
                StreamInfo(name, names, (unit,) * channels, rate_hz, "file", array.shape[0], 0.0, str(array.dtype))
            )
            if rate_hz is None:
                self._notes.say(f"the file does not say the rate of {name}: give rate_hz to read it")
        return with_notes(SourceInfo(tuple(streams), 0, longest(tuple(streams)), self.format), self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`; one array after the other.

        Raises:
            ClisonixError: also if an array has no rate.
        """
        want = wanted(self.inspect(), streams, seconds)
        for info in want.streams:
            if info.rate_hz is None:
                raise ClisonixError(f"the file does not say the rate of the array {info.name!r}: give rate_hz")
            at = 0
            for rows in self._blocks(info.name, want.block(info)):
                with np.errstate(over="ignore"):
                    samples = np.ascontiguousarray(rows.reshape(len(rows), -1).T, np.float32)
                yield Chunk(info.name, samples, even_times(at, len(rows), info.rate_hz), at)
                at += len(rows)

    @cached_property
    def _zipped(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(2) == b"PK"

    @cached_property
    def _arrays(self) -> dict[str, _Array]:
        try:
            if not self._zipped:
                with self.path.open("rb") as file:
                    array = _head(file)
                    if array.at + array.dtype.itemsize * int(np.prod(array.shape, dtype=object)) > _size(self.path):
                        raise SourceError(self.path, f"is truncated: it announces an array {array.shape}")
                return {"signals": array}
            found = {}
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(".npy"):
                        with archive.open(member) as part:
                            found[plain(member.filename[:-4])] = _head(part)
            return found
        except _DAMAGED as error:
            raise SourceError(self.path, "cannot be read as a NumPy file; it may be truncated") from error

    def _said(self, name: str) -> tuple[float | None, str]:
        """Rate and unit of an array."""
        rate_hz, unit = self._rate_hz, ""
        for suffix in ("fs", "rate_hz"):
            value = self._scalar(f"{name}_{suffix}")
            if isinstance(value, int | float) and np.isfinite(value) and value > 0:
                rate_hz = float(value)
        value = self._scalar(f"{name}_unit")
        if isinstance(value, str):
            unit = plain(value, 20)
        return rate_hz, unit

    def _scalar(self, name: str) -> object:
        array = self._arrays.get(name)
        if array is None or array.shape not in ((), (1,)) or array.dtype.itemsize > 1024:
            return None
        for values in self._blocks(name, 1):
            return values.ravel()[0].item() if values.size else None
        return None

    def _blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        array = self._arrays[name]
        try:
            if not self._zipped:
                mapped = np.load(self.path, mmap_mode="r", allow_pickle=False)
                for a in range(0, len(mapped), rows):
                    yield np.asarray(mapped[a : a + rows])
                return
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as part:
                if array.fortran and len(array.shape) == 2:
                    if array.dtype.itemsize * array.shape[0] * array.shape[1] > _LARGEST:
                        raise SourceError(
                            self.path, f"the array {name} is too large for its order; store it in C order"
                        )
                    whole = np.lib.format.read_array(part, allow_pickle=False)
                    for a in range(0, len(whole), rows):
                        yield whole[a : a + rows]
                    return
                part.read(array.at)
                shape = array.shape or (1,)
                width = array.dtype.itemsize * int(np.prod(shape[1:], dtype=object))
                for a in range(0, shape[0], rows):
                    count = min(rows, shape[0] - a)
                    if len(content := part.read(count * width)) < count * width:
                        raise SourceError(self.path, f"the array {name} in it is truncated")
                    yield np.frombuffer(content, array.dtype).reshape(count, *shape[1:])
        except _DAMAGED as error:
            raise SourceError(self.path, f"the array {name} in it cannot be read; it may be damaged") from error


def _head(file: IO[bytes]) -> _Array:
    """The header of an array; its length is not believed, since as many bytes would be allocated."""
    version = np.lib.format.read_magic(file)
    width = 2 if version == (1, 0) else 4
    length = file.read(width)
    if int.from_bytes(length, "little") > 1 << 16:
        raise ValueError("the header is too long")
    head = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(head)
    if dtype.hasobject or any(n < 0 for n in shape):
        raise ValueError("objects are not read")
    return _Array(shape, fortran, dtype, file.tell())


def _size(path: Path) -> int:
    return path.stat().st_size


_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, SyntaxError, OverflowError, MemoryError, NotImplementedError,
    RuntimeError, zipfile.BadZipFile, tokenize.TokenError, zlib.error,
)  # fmt: skip
