"""A recorded trace as a set of sensors: what was measured once, as if it happened again from now on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.meter.estimation.series import Series
from clisonix.meter.reasons import Reason
from clisonix.meter.recording.trace import Trace
from clisonix.meter.sensors.sensor import SensorLost


class ReplaySensor:
    """One sensor of a recording. Its clock starts with its first read.

    Args:
        series: the recorded samples; at least one.
        began_s: when the recording began, seconds on its own clock.
        started: shared by the sensors of one recording: when the replay began, once it has.
        speed: seconds of the recording per second.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        series: Series,
        began_s: float,
        started: list[float],
        speed: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        info = series.info
        self.name, self.source, self.scope, self.device = info.name, info.source, info.scope, info.device
        self.exact_edges = info.exact_edges
        self.refresh_s = None if info.refresh_s is None else info.refresh_s / speed
        self.max_power_w = info.max_power_w * speed
        self.parameters: dict[str, Any] = {
            **info.parameters, "how": f"replayed from a recording; {info.parameters.get('how', info.source)}"
        }  # fmt: skip
        self._series, self._began_s, self._started = series, began_s, started
        self._speed, self._clock = speed, clock

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`: what the recorded sensor would have shown at this point of the recording."""
        now_s = self._clock()
        if not self._started:
            self._started.append(now_s)
        t_s, joules = self._series.t_s, self._series.joules
        at_s = self._began_s + (now_s - self._started[0]) * self._speed
        if at_s > t_s[-1]:
            raise SensorLost("the recording is over", Reason.RECORDING_OVER.value)
        if self.exact_edges:
            return now_s, float(np.interp(at_s, t_s, joules))
        # A counter's value stands until it moves; before the first sample it is the first.
        return now_s, float(joules[max(0, int(np.searchsorted(t_s, at_s, side="right")) - 1)])


def replay(
    source: Trace | Path | str, speed: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> list[ReplaySensor]:
    """The sensors of a recorded trace, for `Meter(sensors=replay(path))`.

    For figures of the recording itself load it with `Trace.load`; a replay is for programs that want live sensors.
    Resets and gaps are replayed as they were recorded.

    Args:
        source: a trace, or the path of one.
        speed: seconds of the recording per second.
        clock: seconds; the meter's.

    Returns:
        One sensor per recorded one that has samples.

    Raises:
        ClisonixError: the file cannot be read, holds no sample, or the speed is not positive.
    """
    if not 0 < speed < float("inf"):
        raise ClisonixError(f"a recording cannot be replayed at speed {speed}: give a positive number, e.g. 1")
    trace = source if isinstance(source, Trace) else Trace.load(Path(source))
    series = [one for one in trace.series if len(one.t_s)]
    if not series:
        raise ClisonixError("the trace holds no sample, so there is nothing to replay")
    began_s, started = max(float(one.t_s[0]) for one in series), list[float]()
    return [ReplaySensor(one, began_s, started, speed, clock) for one in series]
