"""A recorded trace as sensors that live again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from meter_fakes import ExactCounter, TickingCounter, World, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import Meter, Reason, Recorder, Trace, replay


def recording() -> Trace:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=0.03), ExactCounter(world)], clock=world.clock)
    sampled(world, recorder, 3.0, 200.0, 0.09)
    sampled(world, recorder, 3.0, 500.0, 0.09)
    return recorder.trace()


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_window_of_the_replay_has_the_energy_of_that_part_of_the_recording(speed: float) -> None:
    world = World(start_s=5000.0)
    recorder = Recorder(replay(recording(), speed, world.clock), clock=world.clock)
    recorder.sample()
    for _ in range(int(10 / speed)):
        sampled(world, recorder, 0.1, 0.0, 0.02)
    with recorder.window("low"):
        sampled(world, recorder, 1.0 / speed, 0.0, 0.02 / speed)
    sampled(world, recorder, 2.0 / speed, 0.0, 0.02 / speed)
    with recorder.window("high"):
        sampled(world, recorder, 1.0 / speed, 0.0, 0.02 / speed)
    sampled(world, recorder, 0.5 / speed, 0.0, 0.02 / speed)
    trace = recorder.trace()
    for name, joules in (("low", 200.0), ("high", 500.0)):
        for reading in trace.readings(name):
            assert reading.joules == pytest.approx(joules, rel=0.03)
            assert reading.how().startswith("replayed from a recording")


def test_the_end_of_the_recording_is_a_reason() -> None:
    world = World(start_s=5000.0)
    recorder = Recorder(replay(recording(), 1.0, world.clock), clock=world.clock)
    recorder.sample()
    with recorder.window("w"):
        sampled(world, recorder, 8.0, 0.0)
    assert {reading.code for reading in recorder.trace().readings("w")} == {Reason.RECORDING_OVER}


def test_a_meter_replays_a_file(tmp_path: Path) -> None:
    recording().save(tmp_path / "t.npz")
    with Meter(sensors=replay(tmp_path / "t.npz")) as meter, meter.window("w"):
        time.sleep(0.4)
    found = {reading.source: reading for reading in meter.readings("w")}
    assert found["rapl-counter"].joules == pytest.approx(200.0 * meter.seconds("w"), rel=0.05)


def test_what_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="cannot read"):
        replay(tmp_path / "absent.npz")
    with pytest.raises(ClisonixError, match="no sample"):
        replay(Trace([], []))
    with pytest.raises(ClisonixError, match="speed"):
        replay(recording(), 0.0)
    assert np.isfinite(recording().series[0].t_s).all()
