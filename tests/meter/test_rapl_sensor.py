from __future__ import annotations

from pathlib import Path

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, SensorLost, detect, detect_rapl
from clisonix.meter.sensors import rapl as rapl_module


def domain(root: Path, folder: str, name: str, uj: int, range_uj: int = 1_000_000) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def machine(root: Path) -> None:
    domain(root, "intel-rapl:0", "package-0", 100_000)
    domain(root, "intel-rapl:0:0", "core", 50_000)
    domain(root, "intel-rapl:0:1", "dram", 20_000)
    domain(root, "intel-rapl:1", "package-1", 300_000)
    domain(root, "intel-rapl:2", "psys", 900_000)
    domain(root, "intel-rapl-mmio:0", "package-0", 100_000)


def test_packages_and_memory_are_found_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    machine(tmp_path)
    sensors, missing = detect_rapl(tmp_path)
    assert [(s.device, s.scope) for s in sensors] == [
        ("cpu:0", "CPU package, all processes"), ("dram:0", "DRAM"), ("cpu:1", "CPU package, all processes"),
    ]  # fmt: skip
    assert missing == []
    assert sensors[0].read()[1] == pytest.approx(0.1)


def test_a_mirror_stands_in_where_only_it_can_be_read(tmp_path: Path) -> None:
    machine(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # cannot be read by anyone
    sensors, missing = detect_rapl(tmp_path)
    assert sorted(sensor.device for sensor in sensors) == ["cpu:0", "cpu:1", "dram:0"]
    assert missing == []


def test_two_packages_memories_are_told_apart(tmp_path: Path) -> None:
    machine(tmp_path)
    domain(tmp_path, "intel-rapl:1:0", "dram", 7_000)
    assert sorted(s.device for s in detect_rapl(tmp_path)[0]) == ["cpu:0", "cpu:1", "dram:0", "dram:1"]


def test_the_counter_wraps_around(tmp_path: Path) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 900_000)
    (sensor,), _ = detect_rapl(tmp_path)
    before = sensor.read()[1]
    (folder / "energy_uj").write_text("100000")
    assert sensor.read()[1] - before == pytest.approx(0.2)
    (folder / "energy_uj").write_text("50000")
    assert sensor.read()[1] - before == pytest.approx(1.15)


def test_the_power_limit_bounds_the_power(tmp_path: Path) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (folder / "constraint_0_power_limit_uw").write_text("150000000")
    (sensor,), _ = detect_rapl(tmp_path)
    assert sensor.max_power_w == 300.0


def test_permission_denied_is_a_reason_and_the_model_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError("Permission denied")

    # The tests may run as root, whom no file mode stops.
    monkeypatch.setattr(rapl_module.RaplEnergy, "__init__", refuse)
    sensors, missing = detect(None, tmp_path)
    assert [s.source for s in sensors if s.device.startswith("cpu")] == ["cpu-time-model"]
    assert sum("permission denied" in m.reason for m in missing) == 3


def test_no_rapl_is_a_reason(tmp_path: Path) -> None:
    sensors, missing = detect_rapl(tmp_path / "absent")
    assert sensors == []
    assert "no RAPL counter" in missing[0].reason


def test_with_rapl_nothing_is_modelled(tmp_path: Path) -> None:
    machine(tmp_path)
    sensors, _ = detect(None, tmp_path)
    assert "cpu-time-model" not in {s.source for s in sensors}


def test_a_counter_that_vanishes_is_lost(tmp_path: Path) -> None:
    folder = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (sensor,), _ = detect_rapl(tmp_path)
    (folder / "energy_uj").unlink()
    with pytest.raises(SensorLost, match="energy_uj"):
        sensor.read()


@pytest.mark.parametrize(
    "bad", [{"low": 0.0}, {"low": 5.0}, {"high": 2.0}, {"watts": float("nan")}, {"high": float("inf")}]
)
def test_a_model_with_impossible_coefficients_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ClisonixError, match="low <= watts <= high"):
        CpuTimeModel(**bad)


def test_the_model_says_that_it_is_one_and_what_it_leaves_out() -> None:
    how = CpuTimeModel(watts=4, low=2, high=9).parameters["how"]
    assert how.startswith("modelled from CPU time (4 W per busy hardware thread, 2-9 W")
    assert "no idle share" in how
    assert "child processes are counted" in how
