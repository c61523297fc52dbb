"""The total-energy counter of NVIDIA GPUs (Volta and newer), through NVML.

NVML: https://docs.nvidia.com/deploy/nvml-api/ (`nvmlDeviceGetTotalEnergyConsumption`, millijoules since the
driver was loaded; it moves about every 100 ms). Reading it initialises no CUDA context.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from clisonix.meter.sensor import SensorLost, Unavailable

REFRESH_S = 0.1
FALLBACK_MAX_POWER_W = 1500.0
"""Above every board sold; used only where the driver does not tell the power limit."""


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

    def __init__(
        self, nvml: Any, handle: Any, index: int, clock: Callable[[], float] = time.perf_counter  # noqa: ANN401
    ) -> None:  # fmt: skip
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self.name = f"nvml:{index}"
        self.device = f"gpu:{index}"
        model = _text(nvml.nvmlDeviceGetName(handle))
        # Grace Hopper's counter includes the Grace CPU and its memory.
        self.scope = "GPU module (with CPU)" if "GH200" in model else "GPU board"
        self.max_power_w, limit_known = FALLBACK_MAX_POWER_W, False
        try:
            self.max_power_w = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000.0
            limit_known = True
        except nvml.NVMLError:
            pass
        self.parameters: dict[str, Any] = {
            "how": "measured by the NVML energy counter",
            "model": model,
            "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
            "power_limit_known": limit_known,
        }

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`."""
        before = self._clock()
        try:
            millijoules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError as error:
            raise SensorLost(f"NVML answered: {error}") from error
        return (before + self._clock()) / 2, millijoules / 1000.0


def detect_nvml(
    visible: str | None = None, nvml: Any = None, clock: Callable[[], float] = time.perf_counter  # noqa: ANN401
) -> tuple[list[NvmlEnergy], list[Unavailable]]:  # fmt: skip
    """Find the energy counters of the visible GPUs.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`: indices or UUIDs separated by commas. None means all
            GPUs, the empty text none. Indices are taken in NVML's (PCI bus) order; CUDA counts in that order
            when `CUDA_DEVICE_ORDER=PCI_BUS_ID`, so UUIDs are safer where GPUs of different models are mixed.
        nvml: a module like `pynvml`; None imports it.
        clock: seconds; replaced in tests.

    Returns:
        The sensors that work, and each that does not with its reason. A machine without an NVIDIA driver
        gives neither sensors nor an exception, but one reason.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return [], [Unavailable("nvml", "the package nvidia-ml-py is not installed")]
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return [], [Unavailable("nvml", f"NVML cannot be used: {error}")]
    sensors: list[NvmlEnergy] = []
    missing: list[Unavailable] = []
    for word in _visible_words(visible, count):
        found = _open(nvml, word, clock)
        if isinstance(found, NvmlEnergy):
            # The same GPU can be named twice, by index and by UUID; it must be counted once.
            if all(found.parameters["uuid"] != other.parameters["uuid"] for other in sensors):
                sensors.append(found)
        else:
            missing.append(found)
    if not sensors and not missing:
        reason = "no GPU is visible" if visible is not None else "there is no NVIDIA GPU"
        missing.append(Unavailable("nvml", reason))
    return sensors, missing


def _visible_words(visible: str | None, count: int) -> list[str]:
    if visible is None:
        return [str(index) for index in range(count)]
    words: list[str] = []
    for word in (part.strip() for part in visible.split(",")):
        # CUDA ignores everything from the first invalid entry on, "-1" being the customary one.
        if not word or (word.lstrip("-").isdigit() and not 0 <= int(word) < count):
            break
        words.append(word)
    return words


def _open(nvml: Any, word: str, clock: Callable[[], float]) -> NvmlEnergy | Unavailable:  # noqa: ANN401
    label = f"nvml:{word}"
    if word.startswith("MIG"):
        return Unavailable(
            label, "MIG reports the parent's power: the instance's own energy is unknown", f"gpu:{word}"
        )
    try:
        if word.isdigit():
            handle, index = nvml.nvmlDeviceGetHandleByIndex(int(word)), int(word)
        else:
            handle = _by_uuid(nvml, word)
            if handle is None:
                return Unavailable(label, "no GPU, or more than one, has a UUID that starts so", f"gpu:{word}")
            index = nvml.nvmlDeviceGetIndex(handle)
        if _mig_enabled(nvml, handle):
            return Unavailable(
                label, "MIG is on and reports the parent's power: this job's share is unknown", f"gpu:{word}"
            )
        sensor = NvmlEnergy(nvml, handle, index, clock)
        sensor.read()
    except (nvml.NVMLError, SensorLost) as error:
        reason = f"the energy counter cannot be read ({error}); it needs Volta or newer"
        return Unavailable(label, reason, f"gpu:{word}")
    return sensor


def _by_uuid(nvml: Any, prefix: str) -> Any:  # noqa: ANN401
    # CUDA accepts any unique start of a UUID.
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    matches = [handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(prefix)]
    return matches[0] if len(matches) == 1 else None


def _mig_enabled(nvml: Any, handle: Any) -> bool:  # noqa: ANN401
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False
    return bool(current)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
