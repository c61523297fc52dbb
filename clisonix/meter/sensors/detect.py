"""Which sensors this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clisonix.meter.energy import WITH_CPU
from clisonix.meter.sensors.cpu_model import CpuTimeModel
from clisonix.meter.sensors.nvml import detect_nvml, power_samples
from clisonix.meter.sensors.ram_model import RamModel
from clisonix.meter.sensors.rapl import ROOT, detect_rapl
from clisonix.meter.sensors.sensor import Sensor, Unavailable


def detect(
    visible: str | None = None, rapl_root: Path = ROOT, nvml: Any = None, *, ram: bool = False  # noqa: ANN401
) -> tuple[list[Sensor], list[Unavailable]]:  # fmt: skip
    """Find every sensor that works here.

    GPUs by their NVML counter, with the driver's power samples as a second opinion; the CPU by RAPL where it can be
    read, else by the CPU-time model, unless a GPU's counter includes it.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`, or None for all GPUs.
        rapl_root: where Linux shows the RAPL counters.
        nvml: a module like `pynvml`; None imports it.
        ram: add a modelled line for memory, unless a counter measures it.

    Returns:
        The sensors, and what is unavailable with its reason.
    """
    gpus, no_gpu = detect_nvml(visible, nvml)
    samples, no_samples = power_samples(gpus)
    counters, no_rapl = detect_rapl(rapl_root)
    sensors: list[Sensor] = [*gpus, *samples, *counters]
    included = any(gpu.scope == WITH_CPU for gpu in gpus)
    if not included and not any(counter.device.startswith("cpu") for counter in counters):
        sensors.append(CpuTimeModel())
    if ram and not included and not any(counter.device.startswith("dram") for counter in counters):
        sensors.append(RamModel())
    return sensors, [*no_gpu, *no_samples, *no_rapl]
