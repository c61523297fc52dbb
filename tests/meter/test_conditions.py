from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clisonix.meter import conditions, node


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two GPUs; the second answers only what an old driver would."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:  # noqa: N802
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "test GPU"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return 1000

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        return 500_000

    def nvmlDeviceGetTemperature(self, handle: int, which: int) -> int:  # noqa: N802
        if handle == 1:
            raise NVMLError("not supported")
        return 41

    def nvmlDeviceGetClockInfo(self, handle: int, which: int) -> int:  # noqa: N802
        return {1: 1755, 2: 2619}[which]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        return 0x01 | 0x04 | 0x40 if handle == 0 else 0x01

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"580.1"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):
            # Whatever else a meter may ask for is not supported here.
            def refuse(*_: object) -> None:
                raise NVMLError("not supported")

            if name in ("nvmlDeviceGetCurrentClocksEventReasons",):
                raise AttributeError(name)
            return refuse
        raise AttributeError(name)


def test_a_snapshot_holds_what_the_driver_tells_and_leaves_out_the_rest() -> None:
    found = conditions(nvml=FakeNvml())
    first, second = found["gpus"]
    assert first == {
        "uuid": "GPU-0", "model": "test GPU", "temperature_c": 41, "sm_clock_mhz": 1755, "memory_clock_mhz": 2619,
        "power_limit_w": 500.0, "throttling": ["software power cap", "hardware thermal slowdown"], "driver": "580.1",
    }  # fmt: skip
    assert "temperature_c" not in second
    assert second["throttling"] == []  # an idle GPU is not throttled
    json.dumps(found, allow_nan=False)


def test_only_visible_gpus_are_asked() -> None:
    assert [gpu["uuid"] for gpu in conditions("1", FakeNvml())["gpus"]] == ["GPU-1"]


def test_a_machine_without_a_gpu_still_gives_its_cpu(tmp_path: Path) -> None:
    class NoDriver(FakeNvml):
        def nvmlInit(self) -> None:  # noqa: N802
            raise NVMLError("no driver")

    folder = tmp_path / "devices/system/cpu"
    for i, (governor, khz) in enumerate([("powersave", 2_000_000), ("powersave", 3_000_000)]):
        (folder / f"cpu{i}/cpufreq").mkdir(parents=True)
        (folder / f"cpu{i}/cpufreq/scaling_governor").write_text(f"{governor}\n")
        (folder / f"cpu{i}/cpufreq/scaling_cur_freq").write_text(f"{khz}\n")
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("47000\n")
    found = conditions(nvml=NoDriver(), system=tmp_path)
    assert found["gpus"] == []
    assert {k: v for k, v in found["cpu"].items() if k != "load_1min"} == {
        "governor": "powersave", "clock_mhz": 2500, "temperature_c": 47.0,
    }  # fmt: skip
    assert conditions(nvml=NoDriver(), system=tmp_path / "none")["cpu"].keys() <= {"load_1min"}


def test_a_node_is_the_same_for_the_same_boot_and_says_nothing_else(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("d0a1c9d2-0000-4000-8000-000000000000\n")
    first = node(boot)
    assert first == node(boot)
    assert first is not None
    assert len(first) == 16
    assert "d0a1" not in first
    boot.write_text("another\n")
    assert node(boot) != first
    assert node(tmp_path / "none") is None


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_boot_id_is_no_node(tmp_path: Path, content: str) -> None:
    (tmp_path / "boot_id").write_text(content)
    assert node(tmp_path / "boot_id") is None
