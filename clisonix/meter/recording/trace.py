"""The raw samples of a run, and every figure that follows from them.

A meter and a saved file answer through the same code, so a figure recomputed from the file is the same to the
last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.files import write_atomic
from clisonix.meter.energy import Energy, best
from clisonix.meter.estimation.series import METHOD, Series, cross_check, link
from clisonix.meter.sensors.sensor import SensorInfo, Unavailable
from clisonix.meter.spans import Span, matching, seconds_of, union

SCHEMA_NAME = "clisonix.trace"
"""Version 1 gave hard bounds as intervals; its traces are still read, and answer as they did."""

__all__ = ["METHOD", "SCHEMA_NAME", "Attempts", "Series", "Trace", "combine"]


@dataclass(frozen=True)
class Trace:
    """Samples and windows of one attempt at a run.

    Attributes:
        series: one per sensor.
        windows: every window opened, in order of opening.
        unavailable: sensors that could not be used, with reasons.
        clock_utc: ISO time at which the trace's clock showed `clock_s`; for display only.
        clock_s: see `clock_utc`.
        method: how figures follow from the samples, see `series.METHOD`; also the version of its file.
        jumps: when the machine woke from sleep (seconds on the trace's clock), and for how many seconds it slept.
    """

    series: list[Series]
    windows: list[Span]
    unavailable: list[Unavailable] = field(default_factory=list)
    clock_utc: str = ""
    clock_s: float = 0.0
    method: int = METHOD
    jumps: tuple[tuple[float, float], ...] = ()

    def names(self) -> list[str]:
        """The window names, in order of first opening."""
        return list(dict.fromkeys(span.name for span in self.windows))

    def spans(self, name: str) -> list[Span]:
        """The disjoint spans of a window name, or of all windows below `name/` if none has that very name.

        Windows of one name that overlap (from several threads) count once.
        """
        return union(matching(self.windows, name))

    def seconds(self, name: str) -> float:
        """Time spent in a window name, in seconds; 0 if it was never opened."""
        return seconds_of(self.spans(name))

    @property
    def last_s(self) -> float:
        """Time of the last sample in seconds; where no sensor gave one, of the last window's edge."""
        ends = [float(s.t_s[-1]) for s in self.series if len(s.t_s) and not s.info.source.endswith("-samples")]
        return max(ends, default=max((span.end_s for span in self.windows), default=self.clock_s))

    def readings(self, name: str) -> list[Energy]:
        """One reading per sensor, and one missing reading per device that has no sensor."""
        return self.readings_during(self.spans(name))

    def readings_during(self, spans: list[Span]) -> list[Energy]:
        """The same for disjoint spans of time, in order."""
        readings = [series.energy(spans) for series in self.series]
        if self.method > 1:
            readings = cross_check(readings, seconds_of(spans))
        # With no sensor at all every reason is of interest, else only those that leave a device unmetered.
        return readings + [
            self._without(missing) for missing in self.unavailable if missing.device or not self.series
        ]

    def energy(self, name: str) -> Energy:
        """The best reading of each device, summed."""
        return self.energy_during(self.spans(name))

    def energy_during(self, spans: list[Span]) -> Energy:
        """The same for disjoint spans of time, in order."""
        return Energy.total(best(self.readings_during(spans)))

    def _without(self, missing: Unavailable) -> Energy:
        device = missing.device or missing.sensor
        if self.method == 1:
            return Energy.unknown(missing.reason, device=device)
        return Energy.unknown(missing.reason, device=device, code=missing.code, uuid=missing.uuid)

    def save(self, path: Path) -> None:
        """Write the trace to a `.npz` file, atomically, without pickle.

        Raises:
            ClisonixError: the disk is full, or the folder cannot be written.
        """
        head = {
            "schema": f"{SCHEMA_NAME}/{self.method}",
            "sensors": [{"info": s.info.to_json(), "lost": s.lost, "lost_code": s.lost_code} for s in self.series],
            "windows": [span.name for span in self.windows],
            "unavailable": [asdict(missing) for missing in self.unavailable],
            "clock_utc": self.clock_utc,
            "clock_s": self.clock_s,
            "jumps": [list(jump) for jump in self.jumps],
        }
        arrays: dict[str, Any] = {
            "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
            "window_start_s": np.array([span.start_s for span in self.windows], np.float64),
            "window_end_s": np.array([span.end_s for span in self.windows], np.float64),
            "window_open": np.array([span.open for span in self.windows], bool),
        }
        for i, series in enumerate(self.series):
            arrays[f"sensor{i}_t_s"], arrays[f"sensor{i}_joules"] = series.t_s, series.joules

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # a file object, or numpy would append .npz to the name
                np.savez(file, **arrays)

        write_atomic(path, write)

    @staticmethod
    def load(path: Path) -> Trace:
        """Read a trace written by `save`.

        Raises:
            ClisonixError: the file is missing, damaged or of a newer schema.
        """
        try:
            # Opened here because numpy leaves the file open when the zip is damaged.
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return _parse({name: file[name] for name in file.files}, path)
        except ClisonixError:
            raise
        except OSError as error:
            raise ClisonixError(f"cannot read the trace {path}: {error.strerror or error}") from error
        except Exception as error:  # whatever zip, numpy and json make of damaged bytes
            raise ClisonixError(f"the trace {path} is damaged ({error}): restore it or run again") from error


class Attempts:
    """Several traces of one resumed run; answers as a `Trace` does, with sums over the attempts.

    Work that was lost and done again was paid for twice and counts twice.

    Args:
        traces: in order of time; their clocks need not agree.
    """

    def __init__(self, traces: Iterable[Trace]) -> None:
        self.traces = list(traces)

    def names(self) -> list[str]:
        """The window names of all attempts, in order of first opening."""
        return list(dict.fromkeys(name for trace in self.traces for name in trace.names()))

    def seconds(self, name: str) -> float:
        """Time spent in a window name over all attempts, in seconds."""
        return float(sum(trace.seconds(name) for trace in self.traces))

    def readings(self, name: str) -> list[Energy]:
        """One reading per sensor, summed over the attempts in which the window was opened."""
        return self._by_device(lambda trace: trace.readings(name), name)

    def energy(self, name: str) -> Energy:
        """The best reading of each device in each attempt, summed."""
        return Energy.total(self._by_device(lambda trace: best(trace.readings(name)), name))

    def _by_device(self, ask: Callable[[Trace], list[Energy]], name: str) -> list[Energy]:
        parts: dict[tuple[str, str], list[Energy]] = {}
        opened = [trace for trace in self.traces if trace.spans(name)]
        for trace in opened or self.traces[-1:]:
            for reading in ask(trace):
                parts.setdefault((reading.device, reading.source), []).append(reading)
        return [part[0] if len(part) == 1 else Energy.total(part) for part in parts.values()]


def combine(traces: Iterable[Trace]) -> Attempts:
    """Put the traces of the attempts of one run together."""
    return Attempts(traces)


def _parse(arrays: dict[str, Any], path: Path) -> Trace:
    head = json.loads(bytes(arrays["head"]))
    name, _, version = str(head["schema"]).partition("/")
    if name != SCHEMA_NAME or not version.isdigit() or not 1 <= int(version) <= METHOD:
        raise ClisonixError(
            f"the trace {path} has the schema {head['schema']!r}; this version reads {SCHEMA_NAME}/1 to "
            f"{SCHEMA_NAME}/{METHOD}: update clisonix"
        )
    method = int(version)
    jumps = tuple((float(at_s), float(seconds)) for at_s, seconds in head.get("jumps", []))
    series = []
    for i, sensor in enumerate(head["sensors"]):
        t_s, joules = arrays[f"sensor{i}_t_s"], arrays[f"sensor{i}_joules"]
        if (
            t_s.shape != joules.shape
            or t_s.ndim != 1
            or not (np.all(np.diff(t_s) >= 0) and np.isfinite(joules).all())
        ):
            raise ValueError(f"the samples of {sensor['info']['name']} are not in order")
        info = SensorInfo.from_json(sensor["info"])
        series.append(Series(info, t_s, joules, sensor["lost"], sensor.get("lost_code"), method, jumps))
    columns = zip(
        head["windows"], arrays["window_start_s"], arrays["window_end_s"], arrays["window_open"], strict=True
    )  # fmt: skip
    windows = [Span(name, float(start), float(end), bool(still)) for name, start, end, still in columns]
    unavailable = [Unavailable(**missing) for missing in head["unavailable"]]
    return Trace(link(series), windows, unavailable, head["clock_utc"], head["clock_s"], method, jumps)
