"""The state of the machine at one moment: temperatures, clocks, power limits, throttling, load.

Two runs can be compared fairly only if these were alike; a record keeps one snapshot from the start and one from
the end of each attempt. Whatever cannot be read is left out, never guessed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clisonix.meter.sensors.nvml import detect_nvml

SYSTEM = Path("/sys")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html; an idle GPU and clocks that the user set
# are no throttling.
THROTTLE = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def conditions(
    visible: str | None = None, nvml: Any = None, system: Path = SYSTEM  # noqa: ANN401
) -> dict[str, Any]:  # fmt: skip
    """What the machine says of itself now, as JSON values.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`, or None for all GPUs.
        nvml: a module like `pynvml`; None imports it.
        system: where Linux shows the CPU's state.

    Returns:
        `utc`, `cpu` (`governor`, `clock_mhz`, `temperature_c`, `load_1min`) and `gpus` (one each: `uuid`, `model`,
        `temperature_c`, `sm_clock_mhz`, `memory_clock_mhz`, `power_limit_w`, `throttling`, `driver`), without what
        cannot be read.
    """
    return {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(system),
        "gpus": _gpus(visible, nvml),
    }


def node(path: Path = BOOT_ID) -> str | None:
    """A name for this machine since it was started, which says nothing else about it; None where there is none.

    Processes with equal names share one monotonic clock and the same counters, also across containers.
    """
    try:
        boot = path.read_text().strip()
    except OSError:
        return None
    return hashlib.sha256(f"clisonix node {boot}".encode()).hexdigest()[:16] if boot else None


def _cpu(system: Path) -> dict[str, Any]:
    folder = system / "devices" / "system" / "cpu"
    found: dict[str, Any] = {}
    governors = {text for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := _text(path))}
    if governors:
        found["governor"] = ", ".join(sorted(governors))
    clocks = [value for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq") if (value := _number(path))]
    if clocks:
        found["clock_mhz"] = round(sum(clocks) / len(clocks) / 1000)
    for zone in sorted((system / "class" / "thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if _text(zone / "type") == "x86_pkg_temp" and value:
            found["temperature_c"] = value / 1000
            break
    if hasattr(os, "getloadavg"):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    return found


def _gpus(visible: str | None, nvml: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return []
    sensors, _ = detect_nvml(visible, nvml)
    return [_gpu(nvml, sensor.parameters["uuid"], sensor.parameters["model"]) for sensor in sensors]


def _gpu(nvml: Any, uuid: str, model: str) -> dict[str, Any]:  # noqa: ANN401
    found: dict[str, Any] = {"uuid": uuid, "model": model}

    def keep(name: str, ask: Callable[[], Any]) -> None:
        try:
            found[name] = ask()
        except (nvml.NVMLError, AttributeError):  # an old driver or binding does not know every question
            return

    def handle() -> Any:  # noqa: ANN401
        return nvml.nvmlDeviceGetHandleByUUID(uuid)

    keep("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle(), nvml.NVML_TEMPERATURE_GPU))
    keep("sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle(), nvml.NVML_CLOCK_SM))
    keep("memory_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle(), nvml.NVML_CLOCK_MEM))
    keep("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle()) / 1000)
    keep("throttling", lambda: _throttling(nvml, handle()))
    keep("driver", lambda: _decoded(nvml.nvmlSystemGetDriverVersion()))
    return found


def _throttling(nvml: Any, handle: Any) -> list[str]:  # noqa: ANN401
    # Renamed from "throttle reasons" to "event reasons" in driver 535; old bindings know only the old name.
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    mask = int((ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle))
    return [name for bit, name in THROTTLE.items() if mask & bit]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _decoded(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
