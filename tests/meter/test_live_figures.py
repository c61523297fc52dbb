"""Power now and energy so far: right, cheap, and honest about what is not known."""

from __future__ import annotations

import threading
import time

import pytest
from meter_fakes import ExactCounter, TickingCounter, World, cpu_model, sampled
from virtual_meter import virtual_meter

from clisonix.meter import Energy, Live, Meter, Unavailable, energy_postfix, energy_scalars, tensorboard_log


@pytest.mark.parametrize("phase_s", [0.0, 0.03, 0.09])
@pytest.mark.parametrize("period_s", [0.04, 0.07, 0.3])
def test_power_now_is_that_of_the_last_seconds(phase_s: float, period_s: float) -> None:
    world = World()
    meter, recorder = virtual_meter(world, [TickingCounter(world, phase_s=phase_s), ExactCounter(world)])
    sampled(world, recorder, 5.0, 100.0, period_s)
    sampled(world, recorder, 3.0, 400.0, period_s)
    gpu, cpu = meter.live().devices
    assert cpu.watts == pytest.approx(400.0)
    # Where samples are rarer than ticks, the tick's own moment is not known.
    assert gpu.watts == pytest.approx(400.0, rel=0.04 if period_s < 0.1 else 0.1)
    assert gpu.seconds == pytest.approx(8.0, abs=period_s)
    assert meter.live().watts == pytest.approx((gpu.watts or 0) + (cpu.watts or 0))


def test_energy_so_far_is_the_meters_own() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [TickingCounter(world), cpu_model(world)])
    sampled(world, recorder, 4.0, 250.0)
    assert meter.live().energy == meter.energy_so_far()
    assert [device.energy.source for device in meter.live().devices] == ["nvml-counter", "cpu-time-model"]


def test_unknown_power_is_none_and_never_zero() -> None:
    world = World()
    gpu = TickingCounter(world)
    meter, recorder = virtual_meter(world, [gpu, ExactCounter(world)])
    assert meter.live().watts is None  # one sample says nothing on power
    sampled(world, recorder, 3.0, 300.0)
    assert meter.live().watts is not None
    gpu.failure = "the GPU is lost"
    sampled(world, recorder, 1.0, 300.0)
    lost, cpu = meter.live().devices
    assert (lost.watts, lost.lost) == (None, "driver-error")
    assert lost.energy.joules == pytest.approx(900.0, abs=31)  # what it counted stands
    assert cpu.watts == pytest.approx(300.0)
    assert meter.live().watts is None  # no sum without one of the parts
    world.run(60.0, 300.0)
    assert [device.watts for device in meter.live().devices] == [None, None]  # long ago is not now


def test_a_counter_that_stands_still_or_is_reset_gives_no_wrong_power() -> None:
    world = World()
    gpu = TickingCounter(world)
    meter, recorder = virtual_meter(world, [gpu])
    sampled(world, recorder, 3.0, 300.0, 0.05)
    gpu.reset()
    sampled(world, recorder, 1.0, 300.0, 0.05)
    assert meter.live().watts == pytest.approx(300.0, rel=0.05)
    gpu._tick_s = lambda: 103.0  # type: ignore[method-assign]
    sampled(world, recorder, 4.0, 300.0, 0.05)
    assert meter.live().watts is None


def test_words_say_what_is_modelled_and_what_is_unknown() -> None:
    world = World()
    model, recorder = virtual_meter(world, [cpu_model(world)])
    sampled(world, recorder, 4.0, 100.0)
    assert energy_postfix(model) == {"power": "3.10 W", "energy": "12.4 J modelled"}
    both, recorder = virtual_meter(world, [TickingCounter(world, phase_s=0.05), cpu_model(world)])
    sampled(world, recorder, 4.0, 310.0)
    assert energy_postfix(both)["energy"].endswith("kJ partly modelled")
    measured, recorder = virtual_meter(world, [ExactCounter(world)])
    assert energy_postfix(measured) == {"power": "? W", "energy": "0 J"}
    sampled(world, recorder, 4.0, 310.0)
    assert energy_postfix(measured) == {"power": "310 W", "energy": "1.24 kJ"}
    gone = Unavailable("nvml:1", "MIG is on", "gpu:1", "mig")
    part, recorder = virtual_meter(world, [ExactCounter(world)], unavailable=[gone])
    sampled(world, recorder, 4.0, 310.0)
    assert energy_postfix(part) == {"power": "? W", "energy": "1.24 kJ incomplete"}
    nothing, _ = virtual_meter(world, [])
    assert energy_postfix(nothing) == {"power": "? W", "energy": "? J"}
    assert Live([], Energy.unknown("why")).words()["energy"] == "? J"


def test_reading_live_figures_reads_no_sensor_and_is_cheap() -> None:
    world = World()
    gpu = TickingCounter(world)
    meter, recorder = virtual_meter(world, [gpu, cpu_model(world)])
    sampled(world, recorder, 200.0, 300.0)
    before = gpu.read
    gpu.read = lambda: pytest.fail("a sensor was read")  # type: ignore[method-assign]
    began_s = time.thread_time()
    for _ in range(200):
        meter.live()
    assert (time.thread_time() - began_s) / 200 < 0.002
    gpu.read = before  # type: ignore[method-assign]


def test_live_figures_from_many_threads_while_the_meter_samples() -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            last = 0.0
            while not stop.is_set():
                joules = meter.live().energy.joules
                assert joules is None or joules >= last
                last = joules or last
        except BaseException as error:
            failures.append(error)

    stop = threading.Event()
    with Meter(period_s=0.002) as meter:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


class Recording:
    def __init__(self) -> None:
        self.calls: list[tuple[str, float, int | None]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        self.calls.append((tag, scalar_value, global_step))


def test_scalars_go_to_any_writer_and_unknown_ones_do_not() -> None:
    world = World()
    meter, recorder = virtual_meter(world, [TickingCounter(world), cpu_model(world)])
    with recorder.window("train/epoch-1"):
        sampled(world, recorder, 3.0, 300.0)
    sampled(world, recorder, 1.0, 300.0)
    writer = Recording()
    tensorboard_log(meter, writer, 7, "train/epoch-1")
    found = {tag: value for tag, value, _ in writer.calls}
    assert {step for _, _, step in writer.calls} == {7}
    assert found == energy_scalars(meter, "train/epoch-1")
    assert found["energy/gpu0/watts"] == pytest.approx(300.0, rel=0.05)
    assert found["energy/cpu/joules"] == pytest.approx(4 * 3.1)
    assert found["energy/window/train/epoch-1/joules"] == meter.energy("train/epoch-1").joules
    assert found["energy/joules_low"] <= found["energy/joules"] <= found["energy/joules_high"]
    nothing, _ = virtual_meter(world, [])
    assert energy_scalars(nothing, "train", prefix="e") == {}


def test_tensorboard_reads_what_was_written(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    world = World()
    meter, recorder = virtual_meter(world, [TickingCounter(world)])
    sampled(world, recorder, 3.0, 300.0)
    with SummaryWriter(str(tmp_path)) as writer:
        tensorboard_log(meter, writer, 3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(energy_scalars(meter))
    (event,) = events.Scalars("energy/gpu0/joules")
    assert (event.step, event.value) == (3, pytest.approx(meter.live().energy.joules, rel=1e-6))


def test_tqdm_takes_the_postfix() -> None:
    tqdm = pytest.importorskip("tqdm")
    import io

    world = World()
    meter, recorder = virtual_meter(world, [cpu_model(world)])
    sampled(world, recorder, 4.0, 100.0)
    text = io.StringIO()
    with tqdm.tqdm(total=2, file=text, ncols=120) as bar:
        bar.set_postfix(energy_postfix(meter), refresh=True)
    assert "energy=12.4 J modelled, power=3.10 W" in text.getvalue() or "power=3.10 W, energy=12.4 J modelled" in (
        text.getvalue()
    )


def test_the_column_shows_power_and_energy_in_richs_bar() -> None:
    import io

    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from clisonix.meter import EnergyColumn

    world = World()
    meter, recorder = virtual_meter(world, [cpu_model(world)])
    sampled(world, recorder, 4.0, 100.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    column = EnergyColumn(meter)
    with Progress(TextColumn("{task.description}"), column, console=console, auto_refresh=False) as bar:
        task = bar.add_task("work", total=2)
        bar.update(task, advance=1)
        bar.refresh()
        meter.live = lambda: pytest.fail("asked again at once")  # type: ignore[method-assign]
        bar.refresh()
    assert "3.10 W 12.4 J modelled" in console.file.getvalue()  # type: ignore[attr-defined]
