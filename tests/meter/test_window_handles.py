"""What a window's handle can do, and when windows of a running meter read what."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest
from meter_fakes import ExactCounter, TickingCounter, World, sampled

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Meter, Reason, Recorder


def test_a_cancelled_window_counts_for_nothing_but_its_time_stays_in_the_one_around() -> None:
    world = World()
    recorder = Recorder([ExactCounter(world)], clock=world.clock)
    recorder.sample()
    with recorder.window("outer"):
        for k in range(3):
            with recorder.window("step") as step:
                sampled(world, recorder, 1.0, 100.0)
                if k == 1:
                    step.cancel()
        with recorder.window("never") as never:
            never.cancel()
    trace = recorder.trace()
    assert trace.names() == ["outer", "step"]
    assert trace.energy("step").joules == pytest.approx(200.0)
    assert trace.energy("outer").joules == pytest.approx(300.0)
    assert trace.energy("never").code == Reason.NO_WINDOW


def test_a_window_may_be_cancelled_after_it_closed() -> None:
    world = World()
    recorder = Recorder([ExactCounter(world)], clock=world.clock)
    recorder.sample()
    with recorder.window("w") as window:
        sampled(world, recorder, 1.0, 100.0)
    window.cancel()
    assert recorder.trace().energy("w").joules is None


def test_a_handle_knows_its_own_opening_only() -> None:
    world = World()
    recorder = Recorder([ExactCounter(world)], clock=world.clock)
    recorder.sample()
    handles = []
    for power_w in (100.0, 300.0):
        with recorder.window("step") as step:
            sampled(world, recorder, 2.0, power_w)
            assert step.seconds is None
            assert step.energy().joules == pytest.approx(2 * power_w)
        handles.append(step)
    assert [handle.energy().joules for handle in handles] == [pytest.approx(200.0), pytest.approx(600.0)]
    assert handles[0].seconds == pytest.approx(2.0)


def test_a_handle_is_used_once() -> None:
    recorder = Recorder([CpuTimeModel()])
    window = recorder.window("w")
    with pytest.raises(ClisonixError, match="has not been opened"):
        window.energy()
    with window:
        pass
    with pytest.raises(ClisonixError, match="opened before"):
        window.__enter__()


def test_the_device_is_synchronised_only_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 2, synchronize=calls.append
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
    recorder = Recorder([CpuTimeModel()])
    with recorder.window("w"):
        pass
    assert calls == []
    with recorder.window("w", sync=True):
        assert calls == [0, 1]
    assert calls == [0, 1, 0, 1]


def test_a_running_meter_reads_a_driver_from_its_own_thread_only() -> None:
    import threading

    class Driver(CpuTimeModel):
        may_block = True
        threads: set[str] = set()  # noqa: RUF012

        def read(self) -> tuple[float, float]:
            self.threads.add(threading.current_thread().name)
            return super().read()

    with Meter([Driver()], period_s=0.5) as meter:
        Driver.threads.clear()
        with meter.window("w"):
            pass
        # A figure needs a sample from after the window: the thread is asked, and answers at once.
        began_s = time.perf_counter()
        assert meter.energy("w").joules is not None
        assert time.perf_counter() - began_s < 0.4
        assert Driver.threads == {"clisonix-meter"}


def test_windows_end_where_they_end_though_the_counter_ticks_later() -> None:
    world = World()
    recorder = Recorder([TickingCounter(world, phase_s=0.03)], clock=world.clock)
    sampled(world, recorder, 1.0, 100.0, 0.02)
    with recorder.window("w") as window:
        sampled(world, recorder, 0.5, 400.0, 0.02)
    sampled(world, recorder, 1.0, 100.0, 0.02)
    assert window.seconds == pytest.approx(0.5)
    assert window.energy().joules == pytest.approx(200.0, rel=0.05)
