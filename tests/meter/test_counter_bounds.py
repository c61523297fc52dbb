"""The interval of a window holds the truth, whatever the load, the counter's phase and the sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import ExactCounter, TickingCounter, World, sampled

from clisonix.meter import Flag, Reason, Recorder

LOADS = {
    "steady": lambda t: 500.0,
    "square wave": lambda t: 700.0 if (t / 0.13) % 1 < 0.5 else 100.0,
    "fast square wave": lambda t: 700.0 if (t / 0.031) % 1 < 0.3 else 50.0,
    "ramp": lambda t: min(700.0, 50.0 * (t - 100.0)),
}


@pytest.mark.parametrize("load", LOADS)
@settings(max_examples=40, deadline=None)
@given(
    phase_s=st.floats(0, 0.1),
    lead_s=st.floats(0.01, 0.5),
    length_s=st.floats(0.004, 3.0),
    tail_s=st.floats(0.0, 0.4),
    period_s=st.floats(0.01, 0.25),
)
def test_a_ticking_counters_bounds_hold_the_truth(
    load: str, phase_s: float, lead_s: float, length_s: float, tail_s: float, period_s: float
) -> None:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=phase_s)], clock=world.clock)
    recorder.sample()
    sampled(world, recorder, lead_s, LOADS[load], period_s)
    start_s = world.now_s
    with recorder.window("w"):
        sampled(world, recorder, length_s, LOADS[load], period_s)
    end_s = world.now_s
    sampled(world, recorder, tail_s, LOADS[load], period_s)
    truth = world.true_j(end_s) - world.true_j(start_s)
    found = recorder.trace().energy("w")
    if found.joules is None:
        # Nothing moved twice in so short a run.
        assert found.code == Reason.TOO_SHORT
        assert end_s - start_s + lead_s + tail_s < 0.35 + 2 * period_s
        return
    assert found.low is not None
    assert found.high is not None
    assert found.at_least is not None
    assert found.at_most is not None
    assert found.at_least - 1e-6 <= truth <= found.at_most + 1e-6
    assert found.at_least <= found.low <= found.joules <= found.high <= found.at_most


@pytest.mark.parametrize(("length_s", "worst"), [(0.73, 0.02), (3.35, 0.005)])
def test_on_steady_load_the_figure_is_close_and_better_than_the_raw_difference(length_s: float, worst: float) -> None:
    errors, raw_errors = [], []
    for i in range(40):
        world = World()
        counter = TickingCounter(world, phase_s=0.0025 * i)
        recorder = Recorder([counter], clock=world.clock)
        sampled(world, recorder, 0.5, 500.0, 0.02)
        before = counter.read()[1]
        with recorder.window("w"):
            sampled(world, recorder, length_s, 500.0, 0.02)
        raw = counter.read()[1] - before
        sampled(world, recorder, 0.2, 500.0, 0.02)
        truth = 500.0 * length_s
        errors.append((recorder.trace().energy("w").joules or 0.0) / truth - 1)
        raw_errors.append(raw / truth - 1)
    rms, raw_rms = float(np.sqrt(np.mean(np.square(errors)))), float(np.sqrt(np.mean(np.square(raw_errors))))
    assert rms < worst
    assert rms < raw_rms / 2


def test_a_longer_window_has_a_relatively_narrower_interval() -> None:
    widths = []
    for length_s in (0.2, 2.0, 20.0):
        world = World()
        recorder = Recorder([TickingCounter(world, phase_s=0.03)], clock=world.clock)
        sampled(world, recorder, 0.5, 400.0)
        with recorder.window("w"):
            sampled(world, recorder, length_s, 400.0)
        sampled(world, recorder, 0.5, 400.0)
        found = recorder.trace().energy("w")
        widths.append(((found.high or 0) - (found.low or 0)) / (400.0 * length_s))
    assert widths[0] > 5 * widths[1] > 25 * widths[2]


def test_power_between_ticks_is_the_load() -> None:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=0.03)], clock=world.clock)
    sampled(world, recorder, 3.0, 400.0, 0.02)
    sampled(world, recorder, 3.0, 150.0, 0.02)
    power_w = recorder.trace().series[0].counter.power_w(np.array([100.5, 101.5, 102.5, 103.5, 104.5, 105.5]))
    assert power_w[[0, 1, 3, 4]] == pytest.approx([400.0, 400.0, 150.0, 150.0], rel=0.02)


def test_later_ticks_narrow_a_closed_windows_interval() -> None:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=0.05)], clock=world.clock)
    sampled(world, recorder, 0.5, 400.0, 0.02)
    with recorder.window("w"):
        sampled(world, recorder, 0.53, 400.0, 0.02)
    at_once = recorder.trace().energy("w")
    sampled(world, recorder, 0.3, 400.0, 0.02)
    later = recorder.trace().energy("w")
    assert (later.high or 0) - (later.low or 0) < (at_once.high or 0) - (at_once.low or 0)
    assert (later.at_most or 0) - (later.at_least or 0) < (at_once.at_most or 0) - (at_once.at_least or 0)


def test_exact_sensors_give_exact_sums() -> None:
    world = World()
    recorder = Recorder([ExactCounter(world)], clock=world.clock)
    recorder.sample()
    sampled(world, recorder, 0.37, 80.0)
    with recorder.window("outer"):
        for k in range(7):
            with recorder.window(f"outer/{k}"):
                sampled(world, recorder, 0.123, 100.0 + k)
    trace = recorder.trace()
    parts = [trace.energy(f"outer/{k}") for k in range(7)]
    truth = sum(0.123 * (100.0 + k) for k in range(7))
    assert sum(part.joules or 0 for part in parts) == pytest.approx(truth, rel=1e-12)
    assert trace.energy("outer").joules == pytest.approx(truth, rel=1e-12)
    assert trace.energy("outer").low == pytest.approx(truth, rel=1e-9)
    assert trace.energy("outer").high == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("gap_s", [0.0, 0.6])
@pytest.mark.parametrize("edge", ["inside", "at the start", "at the end"])
def test_a_reset_widens_the_interval_and_never_makes_energy_negative(gap_s: float, edge: str) -> None:
    world = World()
    counter = TickingCounter(world, phase_s=0.07)
    recorder = Recorder([counter], clock=world.clock)
    sampled(world, recorder, 1.0, 300.0)
    if edge == "at the start":
        world.run(0.01, 300.0)
        counter.reset()
    start_s = world.now_s
    with recorder.window("w"):
        sampled(world, recorder, 1.0, 300.0)
        if edge == "inside":
            world.run(gap_s + 0.01, 300.0)
            counter.reset()
        sampled(world, recorder, 1.0, 300.0)
        if edge == "at the end":
            world.run(gap_s + 0.01, 300.0)
            counter.reset()
    end_s = world.now_s
    sampled(world, recorder, 1.0, 300.0)
    truth = world.true_j(end_s) - world.true_j(start_s)
    found = recorder.trace().energy("w")
    assert found.joules is not None
    assert (found.low or 0) - 1e-6 <= truth <= (found.high or 0) + 1e-6
    assert (found.at_least or 0) - 1e-6 <= truth <= (found.at_most or 0) + 1e-6
    assert found.joules == pytest.approx(truth, rel=0.1)


def test_a_sensor_lost_in_a_window_makes_it_unknown_with_the_reason() -> None:
    world = World()
    counter = TickingCounter(world)
    recorder = Recorder([counter, ExactCounter(world)], clock=world.clock)
    sampled(world, recorder, 0.5, 300.0)
    with recorder.window("before"):
        sampled(world, recorder, 1.0, 300.0)
    sampled(world, recorder, 0.3, 300.0)
    with recorder.window("during"):
        sampled(world, recorder, 0.5, 300.0)
        counter.failure = "GPU is lost"
        sampled(world, recorder, 0.5, 300.0)
    trace = recorder.trace()
    assert trace.energy("before").reason is None
    gpu, cpu = trace.readings("during")
    assert gpu.joules is None
    assert "GPU is lost" in (gpu.reason or "")
    assert cpu.joules == pytest.approx(300.0)
    total = trace.energy("during")
    assert total.joules == pytest.approx(300.0)
    assert "without gpu:0" in (total.reason or "")


def test_a_sensor_that_comes_back_is_known_again_with_a_wider_interval() -> None:
    world = World()
    counter = TickingCounter(world)
    recorder = Recorder([counter], clock=world.clock)
    sampled(world, recorder, 0.5, 300.0)
    with recorder.window("w"):
        sampled(world, recorder, 0.5, 300.0)
        counter.failure = "timeout"
        sampled(world, recorder, 0.5, 300.0)
    start_s, end_s = world.now_s - 1.0, world.now_s
    sampled(world, recorder, 0.5, 300.0)
    counter.failure = ""
    sampled(world, recorder, 0.5, 300.0)
    found = recorder.trace().energy("w")
    truth = world.true_j(end_s) - world.true_j(start_s)
    assert (found.low or 0) <= truth <= (found.high or 0)
    assert (found.at_most or 0) - (found.at_least or 0) > 100.0
    assert Flag.GAP in found.flags
