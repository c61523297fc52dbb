"""What becomes of figures when processes fork or die, machines sleep, and disks fill up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from meter_fakes import ExactCounter, TickingCounter, World, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Flag, Meter, NvmlSamples, Reason, Recorder, Trace

FORK = """
import os, sys, time
from pathlib import Path
from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Meter
with Meter([CpuTimeModel()], period_s=0.005) as meter:
    with meter.window("parent"):
        time.sleep(0.1)
    child = os.fork()
    if child == 0:
        with meter.window("child") as window:
            sum(i * i for i in range(300_000))
        wrong = [window.energy().code, meter.energy("parent").code, meter.energy_so_far().code] != ["forked"] * 3
        try:
            meter.save_trace(Path(sys.argv[1]))
            wrong = True
        except ClisonixError as error:
            wrong |= "fork" not in str(error)
        meter.__exit__(None, None, None)
        os._exit(int(wrong))
    _, status = os.waitpid(child, 0)
    with meter.window("after"):
        pass
assert status == 0, status
assert meter.names() == ["parent", "after"], meter.names()
assert meter.energy("parent").joules is not None
assert not Path(sys.argv[1]).exists()
"""

KILLED = """
import sys, time
from clisonix.meter import CpuTimeModel, Meter
with Meter([CpuTimeModel()], period_s=0.01, trace_path=sys.argv[1], flush_s=0.1) as meter:
    with meter.window("done"):
        sum(i * i for i in range(300_000))
    with meter.window("open"):
        print("ready", flush=True)
        while True:
            sum(i * i for i in range(10_000))
"""


def test_a_forked_child_reads_nothing_and_counts_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "t.npz")], check=True, timeout=60)


def test_a_killed_process_leaves_the_trace_so_far(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and not (path.exists() and "open" in Trace.load(path).names()):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    trace = Trace.load(path)
    assert (trace.energy("done").joules or 0) > 0
    assert (trace.energy("open").joules or 0) > 0
    assert trace.windows[-1].open


def test_the_trace_is_written_at_the_end_and_a_full_disk_does_not_stop_the_run(tmp_path: Path) -> None:
    with Meter([CpuTimeModel()], trace_path=tmp_path / "t.npz") as meter, meter.window("w"):
        pass
    assert Trace.load(tmp_path / "t.npz").energy("w") == meter.energy("w")
    (tmp_path / "taken.npz").mkdir()
    blocked = Meter([CpuTimeModel()], period_s=0.01, trace_path=tmp_path / "taken.npz", flush_s=0.02)
    blocked.__enter__()
    time.sleep(0.15)
    assert blocked.energy_so_far().joules is not None
    with pytest.raises(ClisonixError, match="cannot write"):
        blocked.__exit__(None, None, None)
    # An error of the work itself is the one to report.
    with pytest.raises(KeyError), blocked:
        raise KeyError


def test_a_machine_that_slept_is_noticed_and_its_bound_widened() -> None:
    world, ahead = World(), [7.0]
    counter = TickingCounter(world, phase_s=0.03)
    recorder = Recorder([counter], clock=world.clock, awake=lambda: world.clock() + ahead[0])
    sampled(world, recorder, 2.0, 300.0, 0.09)
    with recorder.window("slept"):
        sampled(world, recorder, 1.0, 300.0, 0.09)
        ahead[0] += 60.0  # the clock that windows use stood still meanwhile
        sampled(world, recorder, 1.0, 300.0, 0.09)
    sampled(world, recorder, 1.0, 300.0, 0.09)
    with recorder.window("awake"):
        sampled(world, recorder, 2.0, 300.0, 0.09)
    sampled(world, recorder, 1.0, 300.0, 0.09)
    slept, awake = recorder.trace().energy("slept"), recorder.trace().energy("awake")
    assert slept.joules == pytest.approx(600.0, rel=0.02)
    assert Flag.CLOCK_JUMP in slept.flags
    assert (slept.at_most or 0) > 700.0 * 60
    assert awake.flags == ()


def test_a_clock_that_is_merely_set_is_no_sleep() -> None:
    world = World()
    recorder = Recorder([ExactCounter(world)], clock=world.clock, awake=lambda: world.clock() * (1 + 1e-5))
    sampled(world, recorder, 20.0, 100.0)
    assert recorder.trace().jumps == ()


class Driver:
    """Keeps a power sample every 20 ms, stamped by the wall clock, as NVML does."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, world: World) -> None:
        self.world, self.wall_ahead_s, self.kept = world, 1.7e9, list[SimpleNamespace]()
        self.made_s = world.now_s

    def wall(self) -> float:
        while self.made_s + 0.02 <= self.world.now_s:
            self.made_s += 0.02
            watts = (self.world.true_j(self.made_s) - self.world.true_j(self.made_s - 0.02)) / 0.02
            stamp_us = int(1e6 * (self.made_s + self.wall_ahead_s))
            self.kept.append(SimpleNamespace(timeStamp=stamp_us, sampleValue=SimpleNamespace(uiVal=int(1e3 * watts))))
        return self.world.now_s + self.wall_ahead_s

    def nvmlDeviceGetSamples(self, handle: object, kind: int, seen_us: int) -> tuple[int, list[SimpleNamespace]]:  # noqa: N802
        self.wall()
        return 1, [sample for sample in self.kept[-120:] if sample.timeStamp > seen_us]


@pytest.mark.parametrize("step_s", [0.0, 3600.0, -3600.0, 5.0, -5.0])
def test_a_wall_clock_that_is_set_costs_the_power_samples_no_energy(step_s: float) -> None:
    world = World()
    driver = Driver(world)
    counter = TickingCounter(world)
    counter.parameters["uuid"] = "GPU-1"
    sensor = NvmlSamples(counter, driver, None, world.clock, driver.wall)  # type: ignore[arg-type]
    recorder = Recorder([sensor], clock=world.clock)
    sampled(world, recorder, 3.0, 300.0, 0.09)
    with recorder.window("w"):
        sampled(world, recorder, 2.3, 300.0, 0.09)
        driver.wall()  # what is kept so far bears stamps of the old time
        driver.wall_ahead_s += step_s
        sampled(world, recorder, 4.7, 300.0, 0.09)
    sampled(world, recorder, 3.0, 300.0, 0.09)
    found = recorder.trace().energy("w")
    assert found.joules == pytest.approx(2100.0, rel=0.01)
    assert (found.low or 0) <= 2100.0 <= (found.high or 0)


def test_a_process_that_was_stopped_has_a_wider_interval() -> None:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=0.03)], clock=world.clock)
    sampled(world, recorder, 2.0, 300.0, 0.09)
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 300.0, 0.09)
        world.run(20.0, 150.0)
    start_s, end_s = world.now_s - 21.0, world.now_s
    world.run(5.0, 400.0)
    sampled(world, recorder, 1.0, 300.0, 0.09)
    found = recorder.trace().energy("w")
    truth = world.true_j(end_s) - world.true_j(start_s)
    assert (found.low or 0) <= truth <= (found.high or 0)
    assert Flag.GAP in found.flags


def test_a_sensor_lost_for_good_says_which_way() -> None:
    world = World()
    counter = ExactCounter(world)
    recorder = Recorder([counter], clock=world.clock)
    recorder.sample()
    counter.failure = "permission denied"
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 100.0)
    found = recorder.trace().energy("w")
    assert (found.joules, found.code) == (None, Reason.DRIVER_ERROR)
    assert "permission denied" in (found.reason or "")
    assert found.validity == "missing"


def test_a_meter_that_runs_is_not_entered_again() -> None:
    with Meter([CpuTimeModel()]) as meter, pytest.raises(ClisonixError, match="runs already"):
        meter.__enter__()
    with meter, meter.window("again"):
        pass
    assert meter.energy("again").joules is not None


@pytest.mark.parametrize("flush_s", [0.0, float("nan")])
def test_a_flush_period_that_is_no_time_is_refused(flush_s: float) -> None:
    with pytest.raises(ClisonixError, match="flush period"):
        Meter([], flush_s=flush_s)


def test_an_unknown_second_opinion_is_refused() -> None:
    with pytest.raises(ClisonixError, match="did you mean 'codecarbon'"):
        Meter([], cross_check="codecarbn")
