"""Reading sensors and opening windows: what fills a trace."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from clisonix.meter.energy import MODELLED, Energy, best
from clisonix.meter.sensor import Sensor, SensorInfo, SensorLost, Unavailable
from clisonix.meter.spans import Span
from clisonix.meter.trace import Series, Trace


class Track:
    """One sensor and the samples read from it so far: 16 bytes each."""

    def __init__(self, sensor: Sensor) -> None:
        self.sensor, self.info = sensor, SensorInfo.of(sensor)
        self._t_s, self._joules = array("d"), array("d")
        self._used_j = 0.0
        # Reentrant: a signal handler that saves the trace may interrupt a read in its own thread.
        self._lock = threading.RLock()
        self.lost: str | None = None

    def __len__(self) -> int:
        return len(self._t_s)

    def read(self) -> None:
        """Take one sample; a sensor that fails is marked lost until it answers again."""
        with self._lock:
            try:
                t_s, joules = self.sensor.read()
            except SensorLost as error:
                self.lost = str(error)
                return
            except Exception as error:
                # A faulty driver binding must not end a training run; its reason stands in every figure.
                self.lost = f"{type(error).__name__}: {error}"
                return
            self.lost = None
            if self._t_s:
                last = self._joules[-1]
                self._used_j += joules - last if joules >= last else joules
                t_s = max(t_s, self._t_s[-1])
            self._t_s.append(t_s)
            self._joules.append(joules)

    def series(self) -> Series:
        """A copy of the samples so far."""
        with self._lock:
            n = min(len(self._t_s), len(self._joules))
            return Series(self.info, np.array(self._t_s[:n]), np.array(self._joules[:n]), self.lost)

    def so_far(self) -> Energy:
        """Energy since the first sample, without looking at the others."""
        info = self.info
        if not self._t_s:
            reason = self.lost or "the sensor gave no sample yet"
            return Energy.unknown(reason, source=info.source, scope=info.scope, device=info.device)
        used = self._used_j
        low, high = used, used
        if info.source == MODELLED:
            low, high = (used * info.parameters[key] / info.parameters["watts"] for key in ("low", "high"))
        elif info.refresh_s is not None:
            edge = info.max_power_w * info.refresh_s
            low, high = max(0.0, used - edge), used + edge
        lost = f"{info.device} was lost: {self.lost}" if self.lost else None
        return Energy(
            used, low, high, info.source, info.scope, info.device, reason=lost, refresh_s=info.refresh_s,
            detail=str(info.parameters.get("how", info.source)),
        )  # fmt: skip


@dataclass
class _Window:
    name: str
    start_s: float
    end_s: float | None = None


class Recorder:
    """Samples sensors when told to, and keeps windows. Safe to use from several threads.

    Args:
        sensors: the sensors to read.
        unavailable: sensors that could not be used.
        clock: the sensors' clock, seconds.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        unavailable: Sequence[Unavailable] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tracks = [Track(sensor) for sensor in sensors]
        self._unavailable, self._clock = list(unavailable), clock
        self._windows: list[_Window] = []
        self._clock_utc, self._clock_s = datetime.now(UTC).isoformat(timespec="seconds"), clock()

    def sample(self) -> None:
        """Read every sensor once."""
        for track in self.tracks:
            track.read()

    @contextmanager
    def window(self, name: str) -> Iterator[None]:
        """Measure what happens inside. See `Meter.window`."""
        # Sensors are read outside the window on both sides: the samples enclose it, and reading costs it nothing.
        self.sample()
        window = _Window(name, self._clock())
        self._windows.append(window)
        try:
            yield
        finally:
            window.end_s = self._clock()
            self.sample()

    def trace(self) -> Trace:
        """A copy of everything so far; open windows reach to the last sample."""
        # Windows first: a window that closes meanwhile is then simply still open in this copy.
        windows = [(window.name, window.start_s, window.end_s) for window in list(self._windows)]
        series = [track.series() for track in self.tracks]
        sampled = [one.t_s[-1] for one in series if len(one.t_s) and one.lost is None]
        now_s = float(min(sampled)) if sampled else self._clock()
        spans = []
        for name, start_s, end_s in windows:
            # A window that has ended but whose last sample is still being taken counts as open for now.
            still = end_s is None or end_s > now_s
            spans.append(Span(name, start_s, max(start_s, now_s if end_s is None else min(end_s, now_s)), still))
        return Trace(series, spans, self._unavailable, self._clock_utc, self._clock_s)

    def so_far(self) -> Energy:
        """Energy of all devices since the first sample; costs next to nothing."""
        missing = [Energy.unknown(m.reason, device=m.device) for m in self._unavailable if m.device]
        return Energy.total(best([track.so_far() for track in self.tracks]) + missing)
