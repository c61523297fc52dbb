"""Which sensors this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clisonix.meter.cpu_model import CpuTimeModel
from clisonix.meter.nvml import detect_nvml
from clisonix.meter.rapl import ROOT, detect_rapl
from clisonix.meter.sensor import Sensor, Unavailable


def detect(
    visible: str | None = None, rapl_root: Path = ROOT, nvml: Any = None  # noqa: ANN401
) -> tuple[list[Sensor], list[Unavailable]]:  # fmt: skip
    """Find every sensor that works here.

    GPUs by their NVML counter; the CPU by RAPL where it can be read, else by the CPU-time model.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`, or None for all GPUs.
        rapl_root: where Linux shows the RAPL counters.
        nvml: a module like `pynvml`; None imports it.

    Returns:
        The sensors, and what is unavailable with its reason.
    """
    gpus, no_gpu = detect_nvml(visible, nvml)
    counters, no_rapl = detect_rapl(rapl_root)
    sensors: list[Sensor] = [*gpus, *counters]
    if not any(counter.device.startswith("cpu") for counter in counters):
        sensors.append(CpuTimeModel())
    return sensors, [*no_gpu, *no_rapl]
