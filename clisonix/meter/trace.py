"""The raw samples of a run, and every figure that follows from them.

A meter and a saved file answer through the same code, so a figure recomputed from the file is the same to the
last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.files import write_atomic
from clisonix.meter.counter import Counter, Floats
from clisonix.meter.energy import MODELLED, Energy, best
from clisonix.meter.sensor import SensorInfo, Unavailable
from clisonix.meter.spans import Span, matching, seconds_of, union

SCHEMA = "clisonix.trace/1"


@dataclass(frozen=True)
class Series:
    """The samples of one sensor.

    Attributes:
        info: the sensor's properties.
        t_s: times on the trace's clock, seconds, `(samples,)`.
        joules: raw counter values, `(samples,)`.
        lost: why the sensor gave no value when it was last asked; None when it did.
    """

    info: SensorInfo
    t_s: Floats
    joules: Floats
    lost: str | None = None

    @cached_property
    def counter(self) -> Counter:
        """The samples, ready for questions; needs at least one."""
        info = self.info
        return Counter(self.t_s, self.joules, info.max_power_w, info.exact_edges, info.refresh_s)

    def energy(self, spans: list[Span]) -> Energy:
        """Energy used during disjoint spans of time."""
        if not spans:
            return self._unknown("no window of that name was opened")
        # One that was opened a moment ago must not hide what the others used.
        spans = [span for span in spans if span.end_s > span.start_s]
        if not spans:
            return self._unknown("no sample was taken since the window was opened")
        if not len(self.t_s):
            return self._unknown(self.lost or "the sensor gave no sample")
        if spans[0].start_s < self.t_s[0]:
            return self._unknown("the window began before the sensor's first sample")
        if spans[-1].end_s > self.t_s[-1]:
            return self._unknown(f"the sensor was lost: {self.lost or 'it gave no sample after the window'}")
        found = [self.counter.between(span.start_s, span.end_s) for span in spans]
        duration_s = seconds_of(spans)
        central = sum(part.central for part in found)
        low, high = sum(part.low for part in found), sum(part.high for part in found)
        parameters = self.info.parameters
        if self.info.source == MODELLED:
            low, high = low * parameters["low"] / parameters["watts"], high * parameters["high"] / parameters["watts"]
        refresh_s, coverage = None, None
        if not self.info.exact_edges:
            refresh_s = self.counter.tick_gap_s or self.info.refresh_s
            covered_s = sum(part.coverage * span.seconds for part, span in zip(found, spans, strict=True))
            coverage = covered_s / duration_s if duration_s > 0 else 0.0
        return Energy(
            central, low, high, self.info.source, self.info.scope, self.info.device,
            refresh_s=refresh_s,
            coverage=coverage,
            detail=str(parameters.get("how", self.info.source)),
        )  # fmt: skip

    def _unknown(self, reason: str) -> Energy:
        info = self.info
        return Energy.unknown(reason, source=info.source, scope=info.scope, device=info.device)


@dataclass(frozen=True)
class Trace:
    """Samples and windows of one attempt at a run.

    Attributes:
        series: one per sensor.
        windows: every window opened, in order of opening.
        unavailable: sensors that could not be used, with reasons.
        clock_utc: ISO time at which the trace's clock showed `clock_s`; for display only.
        clock_s: see `clock_utc`.
    """

    series: list[Series]
    windows: list[Span]
    unavailable: list[Unavailable] = field(default_factory=list)
    clock_utc: str = ""
    clock_s: float = 0.0

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

    def readings(self, name: str) -> list[Energy]:
        """One reading per sensor, and one missing reading per device that has no sensor."""
        spans = self.spans(name)
        readings = [series.energy(spans) for series in self.series]
        # With no sensor at all every reason is of interest, else only those that leave a device unmetered.
        return readings + [
            Energy.unknown(missing.reason, device=missing.device or missing.sensor)
            for missing in self.unavailable
            if missing.device or not self.series
        ]

    def energy(self, name: str) -> Energy:
        """The best reading of each device, summed."""
        return Energy.total(best(self.readings(name)))

    def save(self, path: Path) -> None:
        """Write the trace to a `.npz` file, atomically, without pickle.

        Raises:
            ClisonixError: the disk is full, or the folder cannot be written.
        """
        head = {
            "schema": SCHEMA,
            "sensors": [{"info": s.info.to_json(), "lost": s.lost} for s in self.series],
            "windows": [span.name for span in self.windows],
            "unavailable": [asdict(missing) for missing in self.unavailable],
            "clock_utc": self.clock_utc,
            "clock_s": self.clock_s,
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
    if head["schema"] != SCHEMA:
        raise ClisonixError(
            f"the trace {path} has the schema {head['schema']!r}; this version reads {SCHEMA!r}: update clisonix"
        )
    series = []
    for i, sensor in enumerate(head["sensors"]):
        t_s, joules = arrays[f"sensor{i}_t_s"], arrays[f"sensor{i}_joules"]
        if t_s.shape != joules.shape or t_s.ndim != 1 or np.any(np.diff(t_s) < 0):
            raise ValueError(f"the samples of {sensor['info']['name']} are not in order")
        series.append(Series(SensorInfo.from_json(sensor["info"]), t_s, joules, sensor["lost"]))
    columns = zip(
        head["windows"], arrays["window_start_s"], arrays["window_end_s"], arrays["window_open"], strict=True
    )  # fmt: skip
    windows = [Span(name, float(start), float(end), bool(still)) for name, start, end, still in columns]
    unavailable = [Unavailable(**missing) for missing in head["unavailable"]]
    return Trace(series, windows, unavailable, head["clock_utc"], head["clock_s"])
