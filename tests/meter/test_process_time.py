"""CPU time of this process and those it started; memory held."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from meter_fakes import World

from clisonix.errors import ClisonixError
from clisonix.meter import RamModel, SensorLost, detect
from clisonix.meter.energy import best, modelled
from clisonix.meter.sensors import processes as processes_module
from clisonix.meter.sensors.processes import ProcessTime
from clisonix.meter.track import Track

BUSY = "import time; end = time.process_time() + {}; \nwhile time.process_time() < end: pass"


def test_children_count_while_they_live_and_once_when_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_module, "LOOK_EVERY_S", 0.0)
    total = ProcessTime()
    before_s = total()
    child = subprocess.Popen([sys.executable, "-c", BUSY.format(0.5) + "\nprint(flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    alive_s = total() - before_s
    assert 0.4 < alive_s < 1.5
    child.communicate(b"\n")
    ended_s = total() - before_s
    assert alive_s <= ended_s < alive_s + 0.3


def test_the_sum_never_falls_so_that_it_never_looks_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_module, "LOOK_EVERY_S", 0.01)
    total, seen = ProcessTime(), []
    children = [subprocess.Popen([sys.executable, "-c", BUSY.format(0.05)]) for _ in range(3)]
    end_s = time.monotonic() + 20
    while any(child.poll() is None for child in children) and time.monotonic() < end_s:
        seen.append(total())
        time.sleep(0.002)
    seen.append(total())
    assert seen == sorted(seen)


def test_without_proc_the_process_itself_counts(tmp_path: Path) -> None:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    before_s = time.process_time() + children.ru_utime + children.ru_stime
    total_s = ProcessTime(proc=tmp_path / "absent")()
    assert before_s <= total_s <= before_s + 1.0


def test_grandchildren_are_found(tmp_path: Path) -> None:
    def process(number: str, ticks: str, children: str) -> None:
        (tmp_path / number / "task" / "1").mkdir(parents=True)
        (tmp_path / number / "task" / "1" / "children").write_text(children)
        (tmp_path / number / "stat").write_text(f"{number} (a (b) c) S 1 1 1 0 -1 4194304 1 0 0 0 {ticks} 20 0 1 0 1")

    process("self", "0 0 0 0", "11 12 ")
    process("11", "100 0 0 0", "13 ")
    process("12", "0 50 25 25", "")
    process("13", "200 0 0 0", "")
    total = ProcessTime(proc=tmp_path)
    total()
    assert total._live_s == pytest.approx(400 * total._tick_s)


def test_memory_is_a_line_of_its_own_and_only_on_request(tmp_path: Path) -> None:
    plain, _ = detect("", tmp_path)
    assert [sensor.source for sensor in plain] == ["cpu-time-model"]
    asked, _ = detect("", tmp_path, ram=True)
    assert [sensor.source for sensor in asked] == ["cpu-time-model", "ram-model"]
    assert modelled("ram-model")


def test_memory_energy_follows_what_is_held() -> None:
    world, held = World(), [2_000_000_000]
    sensor = RamModel(clock=world.clock, resident=lambda: held[0])
    track = Track(sensor, world.clock)
    for gigabytes in (2, 2, 4):
        held[0] = gigabytes * 1_000_000_000
        track.read()
        world.run(10.0, 0.0)
    series = track.series()
    assert series.joules[-1] == pytest.approx(0.392 * (2 * 10 + 3 * 10))
    reading = track.so_far()
    assert reading.low == pytest.approx((reading.joules or 0) * 0.1 / 0.392)
    assert best([reading]) == [reading]


@pytest.mark.parametrize("bad", [{"low": 0.0}, {"low": 1.0}, {"high": 0.3}, {"watts": float("nan")}])
def test_a_memory_model_with_impossible_coefficients_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ClisonixError, match="low <= watts <= high"):
        RamModel(**bad)


def test_memory_that_cannot_be_read_is_lost() -> None:
    def refuse() -> int:
        raise SensorLost("no /proc")

    with pytest.raises(SensorLost, match="no /proc"):
        RamModel(resident=refuse).read()
    assert RamModel().read()[1] == 0.0
