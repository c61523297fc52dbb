"""One sensor and the samples read from it so far."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from clisonix.meter.energy import Energy, modelled
from clisonix.meter.estimation.series import Series
from clisonix.meter.reasons import Reason
from clisonix.meter.sensors.sensor import Sensor, SensorInfo, SensorLost

HANGS_AFTER_S = 1.0
"""A read that takes longer is taken to hang."""
WAIT_S = 0.05


class Track:
    """One sensor and the samples read from it so far: 16 bytes each.

    Args:
        sensor: what to read.
        clock: the sensor's clock, seconds.
    """

    def __init__(self, sensor: Sensor, clock: Callable[[], float]) -> None:
        self.sensor, self.info = sensor, SensorInfo.of(sensor)
        self.may_block = bool(getattr(sensor, "may_block", False))
        """Whether only the sampling thread may read it."""
        self.asked_s = -float("inf")
        """When the last finished read began."""
        self._clock = clock
        self._drain: Callable[[bool], list[tuple[float, float]]] | None = getattr(sensor, "drain", None)
        self._t_s, self._joules = array("d"), array("d")
        self._used_j = 0.0
        self._busy_since_s: float | None = None
        # Two locks: a driver that hangs must block neither windows nor figures. The arrays' lock is reentrant: a
        # signal handler that saves the trace may interrupt an append in its own thread.
        self._reading, self._writing = threading.Lock(), threading.RLock()
        self._lost: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self._t_s)

    @property
    def seconds(self) -> float:
        """Seconds from the first sample to the last."""
        return self._t_s[-1] - self._t_s[0] if self._t_s else 0.0

    @property
    def last_s(self) -> float | None:
        """Time of the last sample in seconds, or None."""
        return self._t_s[-1] if self._t_s else None

    @property
    def lost(self) -> tuple[str, str] | None:
        """Why there is no value now and which `Reason` it is; None while there is one."""
        busy_since_s = self._busy_since_s
        if busy_since_s is not None and self._clock() - busy_since_s > HANGS_AFTER_S:
            return f"its driver has not answered for {self._clock() - busy_since_s:.1f} s", Reason.NO_ANSWER.value
        return self._lost

    def read(self, last: bool = False) -> None:
        """Take one sample; a sensor that fails is marked lost until it answers again.

        Args:
            last: whether there will be no other.
        """
        # Values read out of turn would look like a counter's reset; who comes second finds a fresh sample.
        if not self._reading.acquire(timeout=WAIT_S):
            return
        try:
            self._busy_since_s = began_s = self._clock()
            try:
                samples = [self.sensor.read()] if self._drain is None else self._drain(last)
                self._lost = None
            except SensorLost as error:
                samples, self._lost = [], (str(error), error.code)
            except Exception as error:
                # A faulty driver binding must not end a training run; its reason stands in every figure.
                samples, self._lost = [], (f"{type(error).__name__}: {error}", Reason.FAULT.value)
            for t_s, joules in samples:
                self._append(t_s, joules)
            self.asked_s = began_s
        finally:
            self._busy_since_s = None
            self._reading.release()

    def series(self, method_jumps: tuple[tuple[float, float], ...] = ()) -> Series:
        """A copy of the samples so far."""
        lost, code = self.lost or (None, None)
        with self._writing:
            n = min(len(self._t_s), len(self._joules))
            t_s, joules = np.array(self._t_s[:n]), np.array(self._joules[:n])
        return Series(self.info, t_s, joules, lost, code, jumps=method_jumps)

    def so_far(self) -> Energy:
        """Energy since the first sample, without looking at the others."""
        info = self.info
        if not self._t_s:
            reason, code = self.lost or ("the sensor gave no sample yet", Reason.NO_SAMPLE.value)
            return Energy.unknown(reason, source=info.source, scope=info.scope, device=info.device, code=code)
        used = self._used_j
        low, high = used, used
        if modelled(info.source):
            low, high = (used * info.parameters[key] / info.parameters["watts"] for key in ("low", "high"))
        elif info.refresh_s is not None:
            edge = info.max_power_w * info.refresh_s
            low, high = max(0.0, used - edge), used + edge
        now = self.lost
        return Energy(
            used, low, high, info.source, info.scope, info.device, refresh_s=info.refresh_s,
            reason=f"{info.device} was lost: {now[0]}" if now else None,
            detail=str(info.parameters.get("how", info.source)), uuid=info.parameters.get("uuid"),
        )  # fmt: skip

    def recent(self, seconds: float, count: int) -> tuple[list[float], list[float]]:
        """Times in seconds and joules of the last samples: those of the last `seconds`, and at least `count`."""
        with self._writing:
            n = min(len(self._t_s), len(self._joules))
            first = bisect_left(self._t_s, self._t_s[n - 1] - seconds, 0, n) if n else 0
            first = max(0, min(first, n - count))
            return list(self._t_s[first:n]), list(self._joules[first:n])

    def _append(self, t_s: float, joules: float) -> None:
        with self._writing:
            if self._t_s:
                last = self._joules[-1]
                self._used_j += joules - last if joules >= last else joules
                t_s = max(t_s, self._t_s[-1])
            self._t_s.append(t_s)
            self._joules.append(joules)
