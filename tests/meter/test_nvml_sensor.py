from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clisonix.meter import SensorLost, detect, detect_nvml
from clisonix.meter.sensors import nvml as nvml_module


class FakeNvml:
    """The functions of pynvml that the sensor uses, over GPUs given as dicts."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: dict[str, Any], driver: bool = True) -> None:
        self.gpus, self.driver = list(gpus), driver

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetIndex(self, handle: dict[str, Any]) -> int:  # noqa: N802
        return self.gpus.index(handle)

    def nvmlDeviceGetName(self, handle: dict[str, Any]) -> str:  # noqa: N802
        return str(handle.get("name", "NVIDIA A100-SXM4-40GB"))

    def nvmlDeviceGetUUID(self, handle: dict[str, Any]) -> str:  # noqa: N802
        return str(handle["uuid"])

    def nvmlDeviceGetPowerManagementLimit(self, handle: dict[str, Any]) -> int:  # noqa: N802
        if "limit_mw" not in handle:
            raise self.NVMLError("Not Supported")
        return int(handle["limit_mw"])

    def nvmlDeviceGetMigMode(self, handle: dict[str, Any]) -> list[int]:  # noqa: N802
        if "mig" not in handle:
            raise self.NVMLError("Not Supported")
        return [handle["mig"], handle["mig"]]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: dict[str, Any]) -> int:  # noqa: N802
        if "mj" not in handle:
            raise self.NVMLError(handle.get("error", "Not Supported"))
        return int(handle["mj"])


A = {"uuid": "GPU-aaaa-1", "mj": 5_000, "limit_mw": 400_000, "mig": 0}
B = {"uuid": "GPU-bbbb-2", "mj": 7_250, "limit_mw": 300_000}


def devices(visible: str | None, *gpus: dict[str, Any]) -> list[str]:
    return [sensor.device for sensor in detect_nvml(visible, FakeNvml(*(gpus or (A, B))))[0]]


def test_a_counter_reads_joules_and_takes_its_power_limit() -> None:
    (sensor, _), missing = detect_nvml(None, FakeNvml(A, B), clock=lambda: 3.0)
    assert sensor.read() == (3.0, 5.0)
    assert sensor.max_power_w == 400.0
    assert sensor.scope == "GPU board"
    assert missing == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["gpu:0", "gpu:1"]),
        ("0", ["gpu:0"]),
        ("1,0", ["gpu:1", "gpu:0"]),
        ("GPU-bbbb-2", ["gpu:1"]),
        ("GPU-bb", ["gpu:1"]),
        ("1,GPU-bbbb-2", ["gpu:1"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["gpu:0"]),
        ("7", []),
    ],
)
def test_visible_devices_are_understood_as_cuda_does(visible: str | None, expected: list[str]) -> None:
    assert devices(visible) == expected


def test_mig_is_unavailable_with_the_reason_and_leaves_a_device_unmetered() -> None:
    for visible, gpu in (("MIG-1234", A), ("0", {**A, "mig": 1})):
        sensors, missing = detect_nvml(visible, FakeNvml(gpu))
        assert sensors == []
        assert "MIG" in missing[0].reason
        assert missing[0].device is not None


def test_an_old_gpu_without_a_counter_is_unavailable_with_the_reason() -> None:
    sensors, missing = detect_nvml(None, FakeNvml(A, {"uuid": "GPU-old"}))
    assert [s.device for s in sensors] == ["gpu:0"]
    assert "Volta" in missing[0].reason
    assert missing[0].device == "gpu:1"


def test_no_driver_is_a_reason_and_not_an_exception() -> None:
    sensors, missing = detect_nvml(None, FakeNvml(driver=False))
    assert sensors == []
    assert "Driver Not Loaded" in missing[0].reason
    assert missing[0].device is None


def test_an_error_in_the_middle_of_a_run_is_a_lost_sensor() -> None:
    gpu = dict(A)
    (sensor,), _ = detect_nvml(None, FakeNvml(gpu))
    del gpu["mj"]
    gpu["error"] = "GPU is lost"
    with pytest.raises(SensorLost, match="GPU is lost"):
        sensor.read()


def test_grace_hopper_says_that_the_cpu_is_in_it() -> None:
    (sensor,), _ = detect_nvml(None, FakeNvml({**A, "name": "NVIDIA GH200 480GB"}))
    assert "CPU" in sensor.scope


def test_an_unknown_power_limit_falls_back_and_says_so() -> None:
    (sensor,), _ = detect_nvml(None, FakeNvml({"uuid": "GPU-x", "mj": 1}))
    assert sensor.max_power_w > 1000
    assert sensor.parameters["power_limit_known"] is False


def test_a_gpu_machine_has_gpu_and_cpu_as_separate_readings(tmp_path: Any) -> None:
    sensors, _ = detect("0", tmp_path, FakeNvml(A, B))
    assert [(s.device, s.source) for s in sensors] == [("gpu:0", "nvml-counter"), ("cpu", "cpu-time-model")]


def test_the_real_binding_has_every_function_that_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    source = Path(nvml_module.__file__ or "").read_text()
    used = set(re.findall(r"nvml\.(nvml\w+|NVML\w+)", source))
    assert len(used) >= 8
    assert {name for name in used if not hasattr(pynvml, name)} == set()
