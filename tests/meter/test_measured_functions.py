"""Calls of a decorated function are metered, and the function itself stays what it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Iterator

import pytest
from meter_fakes import ExactCounter, World

import clisonix
from clisonix import ClisonixError
from clisonix.meter import Energy, Measurement, Meter, measured


class Load(ExactCounter):
    """A package of known power in virtual time."""

    def work(self, seconds: float) -> float:
        self.world.run(seconds, 50.0)
        return seconds


@pytest.fixture
def load() -> Load:
    return Load(World())


@pytest.fixture
def meter(load: Load) -> Iterator[Meter]:
    with Meter([load], period_s=60.0) as running:
        running._recorder._clock = load.world.clock
        yield running


def test_a_call_is_a_window_with_exactly_its_energy(meter: Meter, load: Load) -> None:
    @measured(meter=meter, name="train/step")
    def step(seconds: float) -> float:
        """What it does."""
        return load.work(seconds)

    load.work(3.0)
    assert step.last is None
    assert step(2.0) == 2.0
    assert step.last is not None
    assert step.last.seconds == pytest.approx(2.0)
    assert step.last.energy.joules == pytest.approx(100.0)
    assert [reading.joules for reading in step.last.readings] == pytest.approx([100.0])
    step(seconds=4.0)
    assert step.last.energy.joules == pytest.approx(200.0)
    assert meter.energy("train").joules == pytest.approx(300.0)
    assert step.__name__ == "step"
    assert step.__doc__ == "What it does."
    assert list(inspect.signature(step).parameters) == ["seconds"]


def test_an_exception_passes_and_its_energy_is_reported(meter: Meter, load: Load) -> None:
    heard: list[Measurement] = []

    @measured(meter=meter, on_result=heard.append)
    def fails(error: Exception) -> None:
        load.work(1.0)
        raise error

    for error in (KeyError("mine"), StopIteration()):
        with pytest.raises(type(error)) as caught:
            fails(error)
        assert caught.value is error
    assert [one.failed for one in heard] == [True, True]
    assert [one.energy.joules for one in heard] == pytest.approx([50.0, 50.0])
    assert fails.last is heard[-1]


def test_calls_inside_calls_share_the_outer_meter(load: Load) -> None:
    made: list[Meter] = []

    def one() -> Meter:
        made.append(Meter([load], period_s=60.0))
        made[-1]._recorder._clock = load.world.clock
        return made[-1]

    @measured
    def inner(depth: int) -> int:
        load.work(1.0)
        return depth if depth == 0 else inner(depth - 1)

    @measured(meter=one)
    def outer() -> int:
        load.work(2.0)
        return inner(2)

    assert outer() == 0
    assert len(made) == 1
    assert outer.last is not None
    assert outer.last.energy.joules == pytest.approx(250.0)
    assert made[0].names() == ["outer", "inner"]
    # The deepest call ended first; the outermost one is the last.
    assert inner.last is not None
    assert inner.last.energy.joules == pytest.approx(150.0)
    outer()
    assert len(made) == 2


def test_with_no_meter_given_a_call_has_one_of_its_own() -> None:
    @measured
    def busy() -> int:
        return sum(i * i for i in range(300_000))

    assert busy() == sum(i * i for i in range(300_000))
    energy = busy.last.energy
    assert isinstance(energy, Energy)
    assert energy.joules is None or energy.joules > 0
    assert energy.joules is not None or energy.reason
    assert threading.active_count() < 10
    assert clisonix.measured is measured


def test_coroutine_functions_stay_such_and_are_measured_to_their_end(meter: Meter, load: Load) -> None:
    @measured(meter=meter)
    async def fetch(seconds: float) -> float:
        await asyncio.sleep(0)
        return load.work(seconds)

    assert inspect.iscoroutinefunction(fetch)
    assert asyncio.run(fetch(2.0)) == 2.0
    assert fetch.last.energy.joules == pytest.approx(100.0)


def test_methods_partials_and_static_methods(meter: Meter, load: Load) -> None:
    class Model:
        size = 3.0

        @measured(meter=meter)
        def fit(self) -> float:
            return load.work(self.size)

        @staticmethod
        @measured(meter=meter)
        def helper(seconds: float) -> float:
            return load.work(seconds)

    assert Model().fit() == 3.0
    assert Model.helper(1.0) == 1.0
    part = measured(meter=meter)(functools.partial(load.work, 2.0))
    assert part() == 2.0
    assert meter.names() == ["Model.fit", "Model.helper", "Load.work"]


def test_what_cannot_be_measured_is_refused_when_it_is_decorated() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later():
        yield 1

    for generator in (numbers, later):
        with pytest.raises(ClisonixError, match=f"generator function {generator.__name__}"):
            measured(generator)
    for other in (Meter, staticmethod(len), 3):
        with pytest.raises(ClisonixError, match="no function"):
            measured(other)
    with pytest.raises(ClisonixError, match="between its slashes"):
        measured(name="a//b")(len)


def test_a_meter_that_does_not_run_is_an_error_before_the_call() -> None:
    calls = []
    stopped = Meter([])
    add = measured(meter=stopped)(calls.append)
    with pytest.raises(ClisonixError, match="does not run"):
        add(1)
    assert calls == []
    with stopped:
        add(2)
    assert calls == [2]
    assert add.last.energy.joules is None
    assert add.last.energy.reason
