"""Power samples that the NVIDIA driver keeps: a second opinion on the energy counter, and on what its ticks hide.

NVML: `nvmlDeviceGetSamples` with `NVML_TOTAL_POWER_SAMPLES`: milliwatts with the wall-clock time of each, in a buffer
of some seconds. On Ampere and newer (but not the A100) a sample is the mean of the last second; on others it is of an
instant. NVIDIA states an accuracy of 5 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clisonix.meter.sensors.nvml_counter import NvmlEnergy, lost
from clisonix.meter.sensors.sensor import SensorLost

FETCH_EVERY_S = 1.0
TOTAL_POWER_SAMPLES = 0
SET_S = 0.05
"""The wall clock was set if it moved by more against the other clock between two fetches."""


class NvmlSamples:
    """Integrated power samples of one GPU.

    Args:
        counter: the counter of the same GPU; gives the device's properties.
        nvml: the module `pynvml`, or an object with its functions.
        handle: NVML's handle of the device.
        clock: seconds; replaced in tests.
        wall_clock: seconds since 1970, the clock of the driver's time stamps; replaced in tests.
    """

    source = "nvml-samples"
    refresh_s: float | None = None
    exact_edges = True
    may_block = True

    def __init__(
        self,
        counter: NvmlEnergy,
        nvml: Any,  # noqa: ANN401
        handle: Any,  # noqa: ANN401
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._nvml, self._handle, self._clock, self._wall_clock = nvml, handle, clock, wall_clock
        self.name = counter.name.replace("nvml:", "nvml-samples:")
        self.device, self.scope, self.max_power_w = counter.device, counter.scope, counter.max_power_w
        self.parameters: dict[str, Any] = {
            "how": "integrated from the driver's power samples",
            "uuid": counter.parameters["uuid"],
            "accuracy": 0.05,
            "lag_s": 1.0,
        }
        self._seen_us = 0
        self._last: tuple[float, float] | None = None
        self._due_s = -float("inf")
        self._ahead_s = wall_clock() - clock()

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`: time and energy of the newest sample."""
        self.drain(last=True)
        if self._last is None:
            raise SensorLost("the driver has no power samples")
        return self._last

    def drain(self, last: bool = False) -> list[tuple[float, float]]:
        """See `Batch.drain`."""
        now_s = self._clock()
        if now_s < self._due_s and not last:
            return []
        self._due_s = now_s + FETCH_EVERY_S
        wall_s = self._wall_clock()
        ahead_s = wall_s - now_s
        was_set, self._ahead_s = abs(ahead_s - self._ahead_s) > SET_S, ahead_s
        if was_set:
            # Nobody can tell which of the stamps are of the old time: the next samples stand for these.
            self._seen_us = int(1e6 * wall_s)
            return []
        try:
            _, samples = self._nvml.nvmlDeviceGetSamples(self._handle, TOTAL_POWER_SAMPLES, self._seen_us)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == getattr(self._nvml, "NVML_ERROR_NOT_FOUND", 6):
                return []  # nothing new
            raise lost(self._nvml, error) from error
        found: list[tuple[float, float]] = []
        for stamp_us, milliwatts in sorted((s.timeStamp, s.sampleValue.uiVal) for s in samples):
            if stamp_us <= self._seen_us:
                continue
            self._seen_us = stamp_us
            t_s = stamp_us / 1e6 - ahead_s
            if self._last is None:
                self._last = (t_s, 0.0)
            else:
                before_s, joules = self._last
                # A clock that is slewed must not make negative energy.
                t_s = max(t_s, before_s)
                self._last = (t_s, joules + milliwatts / 1000.0 * (t_s - before_s))
            found.append(self._last)
        return found
