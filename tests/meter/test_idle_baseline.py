"""Total, idle and active energy."""

from __future__ import annotations

import pytest
from meter_fakes import ExactCounter, World, cpu_model, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Flag, Meter, Reason, Recorder, Trace
from clisonix.meter.idle import split


def recorded(idle_w: tuple[float, ...], model: bool = False) -> Trace:
    """Work of 300 W for 10 s between idle measurements of 5 s each."""
    world = World()
    recorder = Recorder([cpu_model(world) if model else ExactCounter(world)], clock=world.clock)
    recorder.sample()
    for k, power_w in enumerate(idle_w):
        if k == 1:
            with recorder.window("work"):
                sampled(world, recorder, 10.0, 300.0)
        with recorder.window("idle"):
            sampled(world, recorder, 5.0, power_w)
    if len(idle_w) < 2:
        with recorder.window("work"):
            sampled(world, recorder, 10.0, 300.0)
    return recorder.trace()


def test_active_energy_is_the_total_less_idle_power_for_as_long() -> None:
    found = split(recorded((80.0, 80.0)), "work")
    assert found.total.joules == pytest.approx(3000.0)
    assert found.idle.joules == pytest.approx(800.0)
    assert found.active.joules == pytest.approx(2200.0)
    assert found.idle_w == {"cpu:0": pytest.approx(80.0)}
    assert found.drift == pytest.approx(0.0, abs=1e-9)
    assert found.active.flags == ()


def test_idle_power_that_drifts_is_flagged_and_widens_the_interval() -> None:
    found = split(recorded((80.0, 100.0)), "work")
    assert found.drift == pytest.approx(20 / 90)
    assert Flag.IDLE_DRIFT in found.active.flags
    assert (found.active.low, found.active.high) == (pytest.approx(2000.0), pytest.approx(2200.0))


def test_without_an_idle_measurement_the_split_is_unknown_with_the_reason() -> None:
    found = split(recorded(()), "work")
    assert found.total.joules == pytest.approx(3000.0)
    assert (found.idle.joules, found.active.joules) == (None, None)
    assert found.active.code == Reason.NO_WINDOW
    assert "meter.idle()" in (found.active.reason or "")


def test_one_measurement_gives_no_drift() -> None:
    assert split(recorded((80.0,)), "work").drift is None


def test_modelled_energy_is_active_by_its_nature() -> None:
    found = split(recorded((80.0, 80.0), model=True), "work")
    assert found.active.joules == found.total.joules
    assert found.idle.code == Reason.NO_SENSOR


def test_the_meter_measures_idle_power_now() -> None:
    with Meter([CpuTimeModel()]) as meter:
        found = meter.idle(0.05)
        assert found.total.joules is not None
        assert meter.split("idle").total == meter.energy("idle")
        with pytest.raises(ClisonixError, match="positive"):
            meter.idle(0.0)
