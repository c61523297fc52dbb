"""The energy counter of NVIDIA GPUs (Volta and newer), through NVML.

NVML: https://docs.nvidia.com/deploy/nvml-api/ (`nvmlDeviceGetTotalEnergyConsumption`, millijoules since the
driver was loaded; it moves about every 100 ms). Reading it initialises no CUDA context.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clisonix.meter.energy import WITH_CPU
from clisonix.meter.reasons import Reason
from clisonix.meter.sensors.sensor import SensorLost

REFRESH_S = 0.1
PROMPT_S = 0.002
TRIES = 2
FALLBACK_MAX_POWER_W = 1500.0
"""Above every board sold; used only where the driver does not tell the power limit."""

_CODES = {
    "NVML_ERROR_NO_PERMISSION": Reason.PERMISSION,
    "NVML_ERROR_GPU_IS_LOST": Reason.DEVICE_LOST,
    "NVML_ERROR_NOT_SUPPORTED": Reason.NOT_SUPPORTED,
    "NVML_ERROR_TIMEOUT": Reason.NO_ANSWER,
    "NVML_ERROR_DRIVER_NOT_LOADED": Reason.NO_DRIVER,
    "NVML_ERROR_LIBRARY_NOT_FOUND": Reason.NO_DRIVER,
}


class NvmlEnergy:
    """The energy counter of one GPU.

    Args:
        nvml: the module `pynvml`, or an object with its functions.
        handle: NVML's handle of the device.
        index: the device's NVML index, for its name.
        clock: seconds; replaced in tests.
    """

    source = "nvml-counter"
    refresh_s: float | None = REFRESH_S
    exact_edges = False
    may_block = True

    def __init__(
        self, nvml: Any, handle: Any, index: int, clock: Callable[[], float] = time.perf_counter  # noqa: ANN401
    ) -> None:  # fmt: skip
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self.name = f"nvml:{index}"
        self.device = f"gpu:{index}"
        model = text(nvml.nvmlDeviceGetName(handle))
        # Grace Hopper's counter includes the Grace CPU and its memory.
        self.scope = WITH_CPU if "GH200" in model else "GPU board"
        self.max_power_w, limit_known = FALLBACK_MAX_POWER_W, False
        try:
            self.max_power_w = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000.0
            limit_known = True
        except nvml.NVMLError:
            pass
        self.parameters: dict[str, Any] = {
            "how": "measured by the NVML energy counter",
            "model": model,
            "uuid": text(nvml.nvmlDeviceGetUUID(handle)),
            "power_limit_known": limit_known,
        }

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`."""
        tightest: tuple[float, float, float] | None = None
        for _ in range(TRIES):
            before_s = self._clock()
            try:
                millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            except self._nvml.NVMLError as error:
                raise lost(self._nvml, error) from error
            took_s = self._clock() - before_s
            if tightest is None or took_s < tightest[0]:
                tightest = took_s, before_s + took_s / 2, millijoules / 1000.0
            # A thread that was put to sleep in between cannot tell when the value was of; mostly the next try can.
            if took_s < PROMPT_S:
                break
        assert tightest is not None
        return tightest[1], tightest[2]


def lost(nvml: Any, error: Exception) -> SensorLost:  # noqa: ANN401
    """What an NVML error means for a sensor that worked before."""
    return SensorLost(f"NVML answered: {error}", reason_of(nvml, error))


def reason_of(nvml: Any, error: Exception) -> str:  # noqa: ANN401
    """The `Reason` of an NVML error."""
    value = getattr(error, "value", None)
    known = (reason for name, reason in _CODES.items() if value is not None and getattr(nvml, name, None) == value)
    return next(known, Reason.DRIVER_ERROR).value


def text(value: str | bytes) -> str:
    """A string as NVML's bindings give it, in older versions as bytes."""
    return value.decode() if isinstance(value, bytes) else value
