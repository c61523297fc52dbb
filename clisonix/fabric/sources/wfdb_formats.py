"""Storage formats of WFDB signal files, read a stretch of frames at a time.

Specification: https://physionet.org/physiotools/wag/signal-5.htm. The usual library brings pandas, a plotting library
and a network client along; the formats are a page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.source import SourceError

Bytes = npt.NDArray[np.uint8]
Digital = npt.NDArray[np.int32]


class Format(NamedTuple):
    """How samples lie in a file: `samples` of them in `size` bytes, and the value of one that was not measured."""

    samples: int
    size: int
    unpack: Callable[[Bytes], Digital]
    missing: int


def _f16(raw: Bytes) -> Digital:
    return raw.view("<i2").astype(np.int32)


def _f61(raw: Bytes) -> Digital:
    return raw.view(">i2").astype(np.int32)


def _f80(raw: Bytes) -> Digital:
    return raw.astype(np.int32) - 128


def _f160(raw: Bytes) -> Digital:
    return raw.view("<u2").astype(np.int32) - 32768


def _f24(raw: Bytes) -> Digital:
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return wide.view("<i4").ravel() >> 8


def _f32(raw: Bytes) -> Digital:
    return raw.view("<i4").astype(np.int32)


def _f212(raw: Bytes) -> Digital:
    low, middle, high = raw.reshape(-1, 3).astype(np.int32).T
    pairs = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1)
    return _signed(pairs.ravel(), 12)


def _f310(raw: Bytes) -> Digital:
    first, second = raw.view("<u2").reshape(-1, 2).astype(np.int32).T
    third = (first >> 11) & 0x1F | ((second >> 11) & 0x1F) << 5
    return _signed(np.stack([(first >> 1) & 0x3FF, (second >> 1) & 0x3FF, third], axis=1).ravel(), 10)


def _f311(raw: Bytes) -> Digital:
    word = raw.view("<u4")
    threes = np.stack([word & 0x3FF, (word >> 10) & 0x3FF, (word >> 20) & 0x3FF], axis=1)
    return _signed(threes.ravel().astype(np.int32), 10)


def _signed(values: Digital, bits: int) -> Digital:
    return (values << (32 - bits)) >> (32 - bits)


FORMATS = {
    16: Format(1, 2, _f16, -(1 << 15)),
    24: Format(1, 3, _f24, -(1 << 23)),
    32: Format(1, 4, _f32, -(1 << 31)),
    61: Format(1, 2, _f61, -(1 << 15)),
    80: Format(1, 1, _f80, -(1 << 7)),
    160: Format(1, 2, _f160, -(1 << 15)),
    212: Format(2, 3, _f212, -(1 << 11)),
    310: Format(3, 4, _f310, -(1 << 9)),
    311: Format(3, 4, _f311, -(1 << 9)),
}
FLAC = {508: 8, 516: 16, 524: 24}


class SignalFile:
    """One file of samples: `per_frame` of them a frame, those of the signals one after the other."""

    def __init__(self, path: Path, number: int, per_frame: int, offset: int, channels: int) -> None:
        """Look at its size.

        Raises:
            ClisonixError: missing, or in a format that is not known.
        """
        self.path, self._number, self._per_frame, self._offset = path, number, per_frame, offset
        self._channels = channels
        try:
            size = path.stat().st_size - offset
        except OSError as error:
            raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
        if number in FLAC:
            self.frames = self._flac(lambda file: int(file.frames)) * channels // per_frame
        elif number in FORMATS:
            form = FORMATS[number]
            # A last group may be cut after a whole sample.
            whole, rest = divmod(max(size, 0), form.size)
            self.frames = (whole * form.samples + rest * form.samples // form.size) // per_frame
        else:
            known = ", ".join(map(str, sorted({*FORMATS, *FLAC})))
            raise ClisonixError(f"{path} is in the WFDB format {number}, which is not known; known are {known}")

    @property
    def missing(self) -> int:
        """The value of a sample that was not measured."""
        return -(1 << (FLAC[self._number] - 1)) if self._number in FLAC else FORMATS[self._number].missing

    def read(self, first: int, count: int) -> Digital:
        """Frames `(frames, per_frame)` from `first` on; fewer at the end."""
        count = max(0, min(count, self.frames - first))
        if count == 0:
            return np.zeros((0, self._per_frame), np.int32)
        if self._number in FLAC:
            return self._read_flac(first, count)
        form = FORMATS[self._number]
        begin, stop = first * self._per_frame, (first + count) * self._per_frame
        groups = begin // form.samples, -(-stop // form.samples)
        size = (groups[1] - groups[0]) * form.size
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset + groups[0] * form.size)
                raw = file.read(size)
        except OSError as error:
            raise ClisonixError(f"cannot read {self.path}: {error.strerror or error}") from error
        # The end of the last group may not be there, nor is it needed.
        padded = np.frombuffer(raw.ljust(size, b"\0"), np.uint8)
        skip = begin - groups[0] * form.samples
        return form.unpack(padded)[skip : skip + stop - begin].reshape(count, self._per_frame)

    def _read_flac(self, first: int, count: int) -> Digital:
        each = self._per_frame // self._channels

        def part(file: Any) -> npt.NDArray[np.int32]:  # noqa: ANN401 - soundfile has no types
            file.seek(first * each)
            found: npt.NDArray[np.int32] = file.read(count * each, dtype="int32", always_2d=True)
            return found

        # The library puts the bits of a sample to the top of the 32.
        values: Digital = self._flac(part) >> (32 - FLAC[self._number])
        if len(values) < count * each:
            raise SourceError(self.path, "is truncated inside its FLAC data", self.path.stat().st_size)
        return values.reshape(count, each, self._channels).transpose(0, 2, 1).reshape(count, self._per_frame)

    def _flac(self, use: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - soundfile has no types
        import soundfile

        try:
            with soundfile.SoundFile(str(self.path)) as file:
                if file.channels != self._channels:
                    raise SourceError(self.path, f"has {file.channels} channels, its header names {self._channels}")
                return use(file)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise SourceError(self.path, "cannot be read as FLAC; it may be truncated") from error
