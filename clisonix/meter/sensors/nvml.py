"""Which GPUs this process may use, and what can be measured of each."""

from __future__ import annotations

import ctypes
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from clisonix.meter.reasons import Reason
from clisonix.meter.sensors.nvml_counter import NvmlEnergy, reason_of, text
from clisonix.meter.sensors.nvml_samples import NvmlSamples
from clisonix.meter.sensors.sensor import SensorLost, Unavailable

LIBRARY = "libnvidia-ml.so.1"


def detect_nvml(
    visible: str | None = None, nvml: Any = None, clock: Callable[[], float] = time.perf_counter  # noqa: ANN401
) -> tuple[list[NvmlEnergy], list[Unavailable]]:  # fmt: skip
    """Find the energy counters of the visible GPUs.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`: indices, UUIDs or MIG UUIDs separated by commas. None means all
            GPUs, the empty text none. Indices are taken in NVML's (PCI bus) order; CUDA counts in that order
            when `CUDA_DEVICE_ORDER=PCI_BUS_ID`, so UUIDs are safer where GPUs of different models are mixed.
        nvml: a module like `pynvml`; None imports it.
        clock: seconds; replaced in tests.

    Returns:
        The sensors that work, and each that does not with its reason. A machine without an NVIDIA driver
        gives neither sensors nor an exception, but one reason.
    """
    nvml = open_nvml() if nvml is None else nvml
    if isinstance(nvml, Unavailable):
        return [], [nvml]
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return [], [Unavailable("nvml", f"NVML cannot be used: {error}", code=reason_of(nvml, error))]
    sensors: list[NvmlEnergy] = []
    missing: list[Unavailable] = []
    for word in _visible_words(visible, count):
        opened = _open(nvml, word, clock)
        if isinstance(opened, NvmlEnergy):
            # The same GPU can be named twice, by index and by UUID; it must be counted once.
            if all(opened.parameters["uuid"] != other.parameters["uuid"] for other in sensors):
                sensors.append(opened)
        else:
            missing.append(opened)
    if not sensors and not missing:
        if visible is not None and count:
            missing.append(Unavailable("nvml", "no GPU is visible", code=Reason.NOT_VISIBLE.value))
        else:
            missing.append(Unavailable("nvml", "there is no NVIDIA GPU", code=Reason.NO_SENSOR.value))
    return sensors, missing


def power_samples(
    counters: list[NvmlEnergy], clock: Callable[[], float] = time.perf_counter
) -> tuple[list[NvmlSamples], list[Unavailable]]:
    """The power samples of the same GPUs, where the driver keeps them."""
    sensors: list[NvmlSamples] = []
    missing: list[Unavailable] = []
    for counter in counters:
        nvml, handle = counter._nvml, counter._handle
        sensor = NvmlSamples(counter, nvml, handle, clock)
        try:
            sensor.drain()
        except (AttributeError, SensorLost) as error:
            code = error.code if isinstance(error, SensorLost) else Reason.NOT_SUPPORTED.value
            missing.append(Unavailable(sensor.name, f"no power samples for a second opinion: {error}", code=code))
        else:
            sensors.append(sensor)
    return sensors, missing


def open_nvml() -> Any:  # noqa: ANN401 - a module
    """The module `pynvml`, or why it cannot be used here as `Unavailable`."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(LIBRARY)
        except OSError:
            # The binding takes 20 ms to import only to find the same.
            return Unavailable("nvml", f"there is no NVIDIA driver ({LIBRARY})", code=Reason.NO_DRIVER.value)
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return Unavailable("nvml", "the package nvidia-ml-py is not installed", code=Reason.NOT_INSTALLED.value)


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
        parent = _mig_parent(nvml, word)
        whose = f" {parent}" if parent else ""
        return Unavailable(
            label, f"MIG reports the power of the whole GPU{whose}: the instance's own energy is unknown",
            f"gpu:{word}", Reason.MIG.value, parent,
        )  # fmt: skip
    uuid = None
    try:
        if word.isdigit():
            handle, index = nvml.nvmlDeviceGetHandleByIndex(int(word)), int(word)
        else:
            handle = _by_uuid(nvml, word)
            if handle is None:
                return Unavailable(
                    label, "no GPU, or more than one, has a UUID that starts so", f"gpu:{word}",
                    Reason.NOT_VISIBLE.value,
                )  # fmt: skip
            index = nvml.nvmlDeviceGetIndex(handle)
        uuid = text(nvml.nvmlDeviceGetUUID(handle))
        if _mig_enabled(nvml, handle):
            return Unavailable(
                label, "MIG is on and reports the power of the whole GPU: this job's share is unknown",
                f"gpu:{word}", Reason.MIG.value, uuid,
            )  # fmt: skip
        sensor = NvmlEnergy(nvml, handle, index, clock)
        sensor.read()
    except SensorLost as error:
        return _unreadable(label, word, error, error.code, uuid)
    except nvml.NVMLError as error:
        return _unreadable(label, word, error, reason_of(nvml, error), uuid)
    return sensor


def _unreadable(label: str, word: str, error: Exception, code: str, uuid: str | None) -> Unavailable:
    reason = f"the energy counter cannot be read ({error}); it needs Volta or newer"
    return Unavailable(label, reason, f"gpu:{word}", code, uuid)


def _by_uuid(nvml: Any, prefix: str) -> Any:  # noqa: ANN401
    # CUDA accepts any unique start of a UUID.
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    matches = [handle for handle in handles if text(nvml.nvmlDeviceGetUUID(handle)).startswith(prefix)]
    return matches[0] if len(matches) == 1 else None


def _mig_parent(nvml: Any, uuid: str) -> str | None:  # noqa: ANN401
    try:
        parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(uuid))
        return text(nvml.nvmlDeviceGetUUID(parent))
    except (nvml.NVMLError, AttributeError):
        return None


def _mig_enabled(nvml: Any, handle: Any) -> bool:  # noqa: ANN401
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False
    return bool(current)
