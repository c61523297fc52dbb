from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from meter_fakes import ExactCounter, TickingCounter, World, cpu_model, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Meter, Recorder, Trace, Unavailable


def recorder_of(world: World) -> Recorder:
    recorder = Recorder([ExactCounter(world)], clock=world.clock)
    recorder.sample()
    return recorder


def test_nested_windows_each_count_their_own_time() -> None:
    world = World()
    recorder = recorder_of(world)
    with recorder.window("outer"):
        sampled(world, recorder, 1.0, 100.0)
        with recorder.window("inner"):
            sampled(world, recorder, 2.0, 50.0)
        sampled(world, recorder, 1.0, 10.0)
    trace = recorder.trace()
    assert trace.seconds("outer") == pytest.approx(4.0)
    assert trace.energy("outer").joules == pytest.approx(210.0)
    assert trace.energy("inner").joules == pytest.approx(100.0)


def test_a_repeated_name_accumulates_only_the_time_inside() -> None:
    world = World()
    recorder = recorder_of(world)
    for _ in range(3):
        with recorder.window("step"):
            sampled(world, recorder, 0.5, 100.0)
        sampled(world, recorder, 0.7, 400.0)
    assert recorder.trace().energy("step").joules == pytest.approx(150.0)
    assert recorder.trace().seconds("step") == pytest.approx(1.5)


def test_overlapping_windows_of_one_name_count_once() -> None:
    world = World()
    recorder = recorder_of(world)
    first, second = recorder.window("w"), recorder.window("w")
    first.__enter__()
    sampled(world, recorder, 1.0, 100.0)
    second.__enter__()
    sampled(world, recorder, 1.0, 100.0)
    first.__exit__(None, None, None)
    sampled(world, recorder, 1.0, 100.0)
    second.__exit__(None, None, None)
    assert recorder.trace().seconds("w") == pytest.approx(3.0)
    assert recorder.trace().energy("w").joules == pytest.approx(300.0)


def test_a_prefix_sums_what_is_below_it_unless_the_name_itself_exists() -> None:
    world = World()
    recorder = recorder_of(world)
    for name in ("train/a/1", "train/a/2", "trainer"):
        with recorder.window(name):
            sampled(world, recorder, 1.0, 100.0)
        sampled(world, recorder, 1.0, 30.0)
    assert recorder.trace().energy("train").joules == pytest.approx(200.0)
    assert recorder.trace().energy("train/a").joules == pytest.approx(200.0)
    with recorder.window("train"):
        sampled(world, recorder, 1.0, 7.0)
    assert recorder.trace().energy("train").joules == pytest.approx(7.0)
    assert recorder.trace().names() == ["train/a/1", "train/a/2", "trainer", "train"]


def test_a_name_that_was_never_opened_is_unknown_not_zero() -> None:
    recorder = recorder_of(World())
    assert recorder.trace().energy("train").joules is None
    assert "no window" in (recorder.trace().energy("train").reason or "")
    assert recorder.trace().seconds("train") == 0.0


def test_an_exception_closes_the_window_and_passes_on() -> None:
    world = World()
    recorder = recorder_of(world)

    def work() -> None:
        with recorder.window("outer"), recorder.window("w"):
            sampled(world, recorder, 1.0, 100.0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()
    sampled(world, recorder, 5.0, 100.0)
    assert [span.open for span in recorder.trace().windows] == [False, False]
    assert recorder.trace().energy("w").joules == pytest.approx(100.0)


def test_an_open_window_reaches_to_the_last_sample() -> None:
    world = World()
    recorder = recorder_of(world)
    window = recorder.window("w")
    window.__enter__()
    sampled(world, recorder, 2.0, 100.0)
    trace = recorder.trace()
    assert trace.windows[0].open
    assert trace.energy("w").joules == pytest.approx(200.0)
    window.__exit__(None, None, None)


def test_a_window_opened_a_moment_ago_does_not_hide_the_others() -> None:
    world = World()
    recorder = recorder_of(world)
    with recorder.window("train/1"):
        sampled(world, recorder, 1.0, 100.0)
    world.run(0.01, 100.0)
    second = recorder.window("train/2")
    second.__enter__()
    assert recorder.trace().energy("train").joules == pytest.approx(100.0)
    assert "no sample" in (recorder.trace().energy("train/2").reason or "")
    second.__exit__(None, None, None)


def test_the_models_interval_is_that_of_its_coefficient() -> None:
    world = World()
    recorder = Recorder([cpu_model(world)], clock=world.clock)
    recorder.sample()
    with recorder.window("w"):
        sampled(world, recorder, 2.0, 0.0)
    found = recorder.trace().energy("w")
    assert found.joules == pytest.approx(2.0 * 3.1)
    assert found.low == pytest.approx(2.0 * 1.2)
    assert found.high == pytest.approx(2.0 * 8.6)
    assert found.how().startswith("modelled")


def test_a_device_without_a_sensor_makes_the_sum_incomplete() -> None:
    world = World()
    blind = [Unavailable("nvml:MIG-1", "MIG reports the parent's power", "gpu:MIG-1"), Unavailable("rapl", "none")]
    recorder = Recorder([cpu_model(world)], blind, clock=world.clock)
    recorder.sample()
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 0.0)
    assert recorder.trace().energy("w").reason == "without gpu:MIG-1: MIG reports the parent's power"
    assert recorder.so_far().reason == "without gpu:MIG-1: MIG reports the parent's power"


def test_energy_so_far_agrees_with_a_window_over_everything() -> None:
    world = World()
    recorder = Recorder([TickingCounter(world), cpu_model(world)], clock=world.clock)
    recorder.sample()
    with recorder.window("all"):
        sampled(world, recorder, 5.0, 300.0)
    so_far, window = recorder.so_far(), recorder.trace().energy("all")
    assert so_far.joules == pytest.approx(window.joules, abs=71.0)
    assert (so_far.low or 0) <= (window.joules or 0) <= (so_far.high or 0)


class Flaky(CpuTimeModel):
    """Raises something unforeseen on every other read."""

    calls = 0

    def read(self) -> tuple[float, float]:
        self.calls += 1
        if self.calls % 2 == 0:
            raise RuntimeError("driver hiccup")
        return super().read()


def test_the_sampler_survives_a_faulty_sensor_and_stops_cleanly() -> None:
    flaky = Flaky()
    with Meter([flaky], period_s=0.005) as meter, meter.window("w"):
        time.sleep(0.1)
    assert flaky.calls > 8
    assert not [t for t in threading.enumerate() if t.name == "clisonix-meter"]
    calls = flaky.calls
    time.sleep(0.03)
    assert flaky.calls == calls


def test_the_schedule_does_not_drift() -> None:
    class Slow(CpuTimeModel):
        times: list[float] = []  # noqa: RUF012

        def read(self) -> tuple[float, float]:
            self.times.append(time.perf_counter())
            time.sleep(0.008)
            return super().read()

    slow = Slow()
    with Meter([slow], period_s=0.02):
        time.sleep(0.6)
    # Each beat keeps its place on a grid of 20 ms, though every read takes 8 ms and a busy machine skips beats.
    beats = np.array(slow.times[1:-1])
    off_grid_s = (beats - beats[0] + 0.01) % 0.02 - 0.01
    assert len(beats) > 5
    assert np.median(np.abs(off_grid_s)) < 0.004


def test_windows_from_several_threads_are_all_kept() -> None:
    with Meter([CpuTimeModel()], period_s=0.01) as meter:

        def work(i: int) -> None:
            for k in range(20):
                with meter.window(f"thread-{i}/{k}"):
                    pass

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(meter.names()) == 80
    assert all(meter.energy(name).joules is not None for name in meter.names())


def test_a_signal_handler_may_save_the_trace_at_any_moment(tmp_path: Path) -> None:
    saved, finished = [], []

    def save(*_: object) -> None:
        saved.append(meter.save_trace(tmp_path / "trace.npz"))
        if not finished:
            signal.setitimer(signal.ITIMER_REAL, 0.003)

    before = signal.signal(signal.SIGALRM, save)
    try:
        with Meter([CpuTimeModel()], period_s=0.001) as meter:
            signal.setitimer(signal.ITIMER_REAL, 0.003)
            end_s = time.perf_counter() + 0.5
            while time.perf_counter() < end_s:
                with meter.window("w"):
                    pass
            finished.append(True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(saved) > 5
    assert all(trace.energy("w").joules is not None for trace in saved[1:])
    assert all(len(s.t_s) == len(s.joules) for trace in saved for s in trace.series)
    assert Trace.load(tmp_path / "trace.npz").energy("w") == saved[-1].energy("w")


def test_a_real_busy_second_costs_what_the_model_says() -> None:
    with Meter([CpuTimeModel()], period_s=0.02) as meter:
        before = time.process_time()
        with meter.window("busy"):
            while time.process_time() - before < 0.3:
                pass
        with meter.window("asleep"):
            time.sleep(0.1)
    assert meter.energy("busy").joules == pytest.approx(0.3 * 3.1, rel=0.15)
    assert (meter.energy("asleep").joules or 0.0) < 0.1 * 3.1 * 0.5


@pytest.mark.parametrize("name", ["", "/", "train/", "/train", "a//b"])
def test_a_window_needs_a_name_at_each_level(name: str) -> None:
    with pytest.raises(ClisonixError, match="words between its slashes"):
        Meter([]).window(name)


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_period_that_is_no_time_is_refused(period_s: float) -> None:
    with pytest.raises(ClisonixError, match="period"):
        Meter([], period_s=period_s)


def test_no_sensor_means_unknown() -> None:
    with Meter([]) as meter, meter.window("w"):
        pass
    assert meter.energy("w").joules is None
    assert meter.energy("w").reason == "there is no energy sensor"
    assert meter.energy_so_far().joules is None


def test_the_default_meter_works_on_this_machine() -> None:
    with Meter() as meter, meter.window("w"):
        sum(i * i for i in range(100_000))
    assert meter.energy("w").joules is not None
