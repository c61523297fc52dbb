"""WAV, FLAC and what else libsndfile reads, in blocks. Titles, artists and other tags are not looked at."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.fabric.source import Chunk, SourceError, SourceInfo, StreamInfo, wanted
from clisonix.fabric.sources.base import FileSource, Notes, even_times, with_notes


class AudioSource(FileSource):
    """One stream `audio` in full scale ±1, time from the first sample on. A truncated file gives what is there."""

    format = "audio"

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """The stream, from the header.

        Raises:
            SourceError: it is not audio.
        """
        with self._open() as file:
            channels, rate_hz, frames = int(file.channels), float(file.samplerate), int(file.frames)
            kind, dtype = str(file.format), str(file.subtype).lower()
        if frames > self.path.stat().st_size * 4096:
            raise SourceError(self.path, f"claims {frames} samples, more than its bytes can hold", 0)
        if kind in ("WAV", "WAVEX"):
            self._check_riff()
        names = tuple(f"audio{i}" for i in range(channels))
        stream = StreamInfo("audio", names, ("FS",) * channels, rate_hz, "file", frames, 0.0, dtype)
        return with_notes(SourceInfo((stream,), 0, frames / rate_hz, kind), self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        for info in wanted(self.inspect(), streams, seconds).streams:
            assert info.rate_hz is not None
            block = wanted(self.inspect(), streams, seconds).block(info)
            at = 0
            with self._open() as file:
                while len(samples := self._read(file, block)):
                    times_s = even_times(at, len(samples), info.rate_hz)
                    yield Chunk(info.name, np.ascontiguousarray(samples.T), times_s, at)
                    at += len(samples)
            if at != info.samples:
                self._notes.say_damage(f"the header announces {info.samples} samples, {at} are there")

    def _read(self, file: Any, block: int) -> Any:  # noqa: ANN401 - soundfile has no types
        import soundfile

        try:
            return file.read(block, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError):
            self._notes.say_damage("its audio data are damaged; it was read up to there")
            return ()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import soundfile

        try:
            with soundfile.SoundFile(str(self.path)) as file:
                yield file
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise SourceError(self.path, "cannot be read as audio; it may be truncated", 0) from error

    def _check_riff(self) -> None:
        """Libsndfile quietly takes what is there of a truncated file, so the sizes are compared here."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            if file.read(12)[:4] != b"RIFF":
                return
            while len(head := file.read(8)) == 8:
                name, length = struct.unpack("<4sI", head)
                if name == b"data":
                    there = size - file.tell()
                    if length > there and length != 0xFFFFFFFF:
                        self._notes.say_damage(
                            f"truncated at byte {size}: {there} of {length} bytes of audio are there"
                        )
                    return
                file.seek(length + length % 2, 1)
