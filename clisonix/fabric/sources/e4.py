"""Sessions of an Empatica E4: a folder or zip with one small CSV a sensor."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Float64Array, Marker, SourceError, SourceInfo, StreamInfo, wanted
from clisonix.fabric.sources.base import FileSource, Notes, Pending, even_times, with_notes
from clisonix.fabric.sources.text_table import Table, open_text, read_line
from clisonix.fabric.stream import Event


class _Sensor(NamedTuple):
    channels: tuple[str, ...]
    unit: str
    scale: float


_SENSORS = {
    "ACC": _Sensor(("x", "y", "z"), "g", 1 / 64),
    "BVP": _Sensor(("bvp",), "", 1.0),
    "EDA": _Sensor(("eda",), "uS", 1.0),
    "TEMP": _Sensor(("temp",), "degC", 1.0),
    "HR": _Sensor(("hr",), "bpm", 1.0),
    "IBI": _Sensor(("ibi",), "s", 1.0),
}


class E4Source(FileSource):
    """One stream a sensor, in lower case; `ibi` is irregular. Times are seconds of UTC, presses of the button events.

    `info.txt`, the serial number and the name of the folder are not looked at.
    """

    format = "Empatica E4"

    def __init__(self, path: Path | str) -> None:
        """Find the files of the sensors.

        Raises:
            ClisonixError: it is no folder or zip, or holds no sensor of an E4.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise ClisonixError(f"there is no folder or file {path}")
        self._notes = Notes()
        if not self._files:
            raise ClisonixError(
                f"{path} holds none of {', '.join(f'{name}.csv' for name in _SENSORS)}: not an E4 session"
            )

    def inspect(self) -> SourceInfo:
        """Starts and rates from the first two lines of each file; nothing is counted."""
        streams = []
        for name in self._sensors:
            sensor = _SENSORS[name]
            with self._open(name) as file:
                start_s, rate_hz = self._head(name, file)
            streams.append(
                StreamInfo(
                    name.lower(),
                    sensor.channels,
                    (sensor.unit,) * len(sensor.channels),
                    rate_hz,
                    "utc",
                    None,
                    start_s,
                    "float64",
                )
            )
        events = None if "tags" in self._files else 0
        return with_notes(SourceInfo(tuple(streams), events, None, self.format), self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`; one sensor after the other."""
        want = wanted(self.inspect(), streams, seconds)
        for info in want.streams:
            name = info.name.upper()
            sensor, pending, index = _SENSORS[name], Pending(info, want), 0
            width = 2 if name == "IBI" else len(sensor.channels)
            with self._open(name) as file:
                start_s, rate_hz = self._head(name, file)
                table = Table(self.path / f"{name}.csv", file, width, line=2 if name == "IBI" else 3)
                for rows in table.blocks():
                    if rate_hz is None:
                        times_s, values = start_s + rows[:, 0], rows[:, 1:]
                    else:
                        times_s, values = even_times(index, len(rows), rate_hz, start_s), rows
                    index += len(rows)
                    yield from pending.add((values.T * sensor.scale).astype(np.float32), times_s)
            yield from pending.rest()

    def events(self) -> list[Event]:
        """Presses of the button."""
        if "tags" not in self._files:
            return []
        with self._open("tags") as file:
            times: list[Float64Array] = [rows[:, 0] for rows in Table(self.path / "tags.csv", file, 1).blocks()]
        pressed = np.sort(np.concatenate(times)) if times else np.zeros(0)
        return [Marker(float(time_s), "tag") for time_s in pressed if math.isfinite(time_s)]

    @property
    def _sensors(self) -> list[str]:
        return [name for name in _SENSORS if name in self._files]

    @cached_property
    def _files(self) -> dict[str, str]:
        """Sensor to file name, inside the folder or zip."""
        if self.path.is_dir():
            names = [p.name for p in self.path.iterdir() if p.is_file()]
        else:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    names = archive.namelist()
            except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
                raise SourceError(self.path, "cannot be read as a zip; it may be truncated") from error
        found: dict[str, str] = {}
        for name in sorted(names):
            stem = Path(name).name.removesuffix(".gz")
            for sensor in (*_SENSORS, "tags"):
                if stem == f"{sensor}.csv" and not (name.endswith(".gz") and not self.path.is_dir()):
                    found.setdefault(sensor, name)
        return found

    @contextmanager
    def _open(self, sensor: str) -> Iterator[IO[bytes]]:
        if self.path.is_dir():
            with open_text(self.path / self._files[sensor]) as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._files[sensor]) as member:
                yield member
        except (
            OSError,
            EOFError,
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            KeyError,
            ValueError,
        ) as error:
            raise SourceError(self.path, f"{sensor}.csv in it cannot be read; it may be truncated") from error
        except Exception as error:
            # zlib.error has no common base with the others.
            if type(error).__module__ != "zlib":
                raise
            raise SourceError(self.path, f"{sensor}.csv in it is damaged") from error

    def _head(self, name: str, file: IO[bytes]) -> tuple[float, float | None]:
        """Start and rate; the rate is None for intervals between beats."""
        path = self.path / f"{name}.csv"
        start_s = self._first(path, file)
        if name == "IBI":
            return start_s, None
        rate_hz = self._first(path, file)
        if rate_hz <= 0:
            raise SourceError(path, f"its second line gives the rate {rate_hz} Hz, expected a positive number")
        return start_s, rate_hz

    def _first(self, path: Path, file: IO[bytes]) -> float:
        try:
            value = float(read_line(path, file).split(",")[0])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SourceError(path, "does not begin with the start and the rate of the sensor")
        return value
