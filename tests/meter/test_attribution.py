"""A block's energy shared among the modules that ran in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from virtual_gpus import BEGAN_S, play

from clisonix.errors import ClisonixError
from clisonix.meter import CpuTimeModel, Energy, Meter, Reason
from clisonix.meter.attribution.attribute import Attribution
from clisonix.meter.attribution.shares import Piece, shared


class Work(nn.Module):
    """Uses a known amount of a counted clock going forward and backward."""

    def __init__(self, clock: list[float], forward: float, backward: float) -> None:
        super().__init__()
        self.clock, self.cost = clock, (forward, backward)
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        clock, (ahead, back) = self.clock, self.cost
        clock[0] += ahead

        class Scale(torch.autograd.Function):
            @staticmethod
            def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
                return x * weight

            @staticmethod
            def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor]:
                clock[0] += back
                return gradient, gradient.sum(0)

        return Scale.apply(x, self.weight)  # type: ignore[no-any-return, no-untyped-call]


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, clock: list[float]) -> None:
        super().__init__()
        self.inner, self.clock = inner, clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock[0] += 0.5
        return x + self.inner(x)


class Counted:
    """A timer on a clock that only the modules move."""

    unit = "CPU time"

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def mark(self) -> float:
        return self.clock[0]

    def seconds(self, marks: list[float]) -> list[float]:
        return [mark - marks[0] for mark in marks]

    def moments(self, marks: list[float]) -> None:
        return None


@contextmanager
def attributed(model: nn.Module, clock: list[float]) -> Iterator[Attribution]:
    with Meter([CpuTimeModel()], period_s=0.02) as meter:
        attribution = Attribution(meter, model, Counted(clock))
        with attribution:
            yield attribution


def test_forward_and_backward_time_goes_to_the_innermost_module() -> None:
    clock = [0.0]
    model = nn.Sequential(Work(clock, 1.0, 2.0), Residual(Work(clock, 3.0, 5.0), clock), Work(clock, 0.0, 7.0))
    with attributed(model, clock) as attribution:
        for _ in range(4):
            clock[0] += 10.0  # loading data
            loss = model(torch.randn(2, 3, requires_grad=True)).sum()
            loss.backward()
    found = {cost.name: (cost.forward_s, cost.backward_s, cost.calls) for cost in attribution.modules}
    assert found["0"] == (4.0, 8.0, 4)
    assert found["1.inner"] == (12.0, 20.0, 4)
    assert found["1"][0] == 2.0
    assert found["2"] == (0.0, 28.0, 4)
    assert attribution.residual is not None
    assert attribution.residual.forward_s == pytest.approx(40.0)


def test_all_parts_and_the_residual_add_up_to_the_block() -> None:
    clock = [0.0]
    model = nn.Sequential(Work(clock, 1.0, 2.0), nn.ReLU(), Work(clock, 3.0, 5.0))
    with attributed(model, clock) as attribution:
        clock[0] += 4.0
        model(torch.randn(2, 3)).sum().backward()
        sum(i * i for i in range(100_000))
    assert attribution.total is not None
    assert attribution.residual is not None
    parts = [*attribution.modules, attribution.residual, attribution.measuring]
    assert sum(part.energy.joules or 0.0 for part in parts if part) == pytest.approx(attribution.total.joules)
    assert attribution.of("").joules == pytest.approx(sum(m.energy.joules or 0.0 for m in attribution.modules))
    heaviest = attribution.modules[0]
    assert heaviest.name == "2"
    assert heaviest.energy.joules == pytest.approx((attribution.total.joules or 0.0) * 8 / 15)
    assert "(outside)" in attribution.table()


def test_hooks_are_gone_afterwards_and_an_error_passes_on() -> None:
    clock = [0.0]
    model = nn.Sequential(Work(clock, 1.0, 1.0))

    def fail() -> None:
        with attributed(model, clock):
            model(torch.randn(2, 3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not model[0]._forward_hooks
    assert not model._forward_pre_hooks
    with attributed(model, clock) as attribution:
        model(torch.randn(2, 3)).sum().backward()
    before = len(attribution._marks)
    model(torch.randn(2, 3)).sum().backward()
    assert len(attribution._marks) == before


def test_an_attribution_is_used_once_and_names_what_ran() -> None:
    clock = [0.0]
    model = nn.Sequential(Work(clock, 1.0, 1.0))
    with attributed(model, clock) as attribution:
        assert "has not ended" in attribution.table()
        model(torch.randn(2, 3))
    with pytest.raises(ClisonixError, match="used once"):
        attribution.__enter__()
    with pytest.raises(ClisonixError, match="no module 'x'"):
        attribution.of("x")


def test_a_module_takes_what_it_takes_alone() -> None:
    """CPU time of each layer in the model against the same layer repeated alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layers = [nn.Linear(384, 512), nn.Linear(512, 768), nn.Linear(768, 384)]
        model, x = nn.Sequential(*layers), torch.randn(192, 384)

        def isolated(layer: nn.Module, size: int, leaf: bool) -> float:
            inputs = torch.randn(192, size, requires_grad=not leaf)
            gradient = torch.randn_like(layer(inputs))
            began_s = time.thread_time()
            layer(inputs).backward(gradient)
            return time.thread_time() - began_s

        for _ in range(3):
            model(x).sum().backward()
        ratios: list[list[float]] = [[], [], []]
        # Alternating, so that whatever else the machine does hits both sides.
        for _ in range(5):
            with Meter([CpuTimeModel()]) as meter, meter.attribute(model) as attribution:
                for _ in range(4):
                    model(x).sum().backward()
            found = {cost.name: cost.forward_s + cost.backward_s for cost in attribution.modules}
            for i, layer in enumerate(layers):
                alone = sum(isolated(layer, layer.in_features, i == 0) for _ in range(4))
                ratios[i].append(found[str(i)] / alone)
        # 10 % is claimed, and reported by the benchmark; a busy machine in a short test needs more room.
        assert [float(np.median(r)) for r in ratios] == pytest.approx([1.0, 1.0, 1.0], rel=0.3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("fails", [False, True])
def test_every_tick_is_sampled_while_a_model_is_attributed(fails: bool) -> None:
    model = nn.Linear(4, 4)
    with Meter([CpuTimeModel()]) as meter:
        assert meter._sampler is not None
        pace = meter._sampler._pace
        with suppress(ZeroDivisionError), meter.attribute(model):
            model(torch.ones(1, 4))
            assert pace.closely == 1
            1 / (not fails)
        assert pace.closely == 0


def test_on_a_gpu_modules_get_what_the_power_trace_shows_in_their_time(library: Path, tmp_path: Path) -> None:
    # 0.4 s at 600 W, then 0.6 s at 100 W: "heavy" runs in the first part. Every tick is sampled, as when attributing.
    played = play(library, tmp_path, ["load phases 600 0.4 100 0.6\nphase_s 0.02"], 20.0)
    pieces, moments = [], []
    for k in range(10):
        at = BEGAN_S - 10.0 + k + 15
        pieces += [Piece("heavy", False), Piece("light", True)]
        moments += [at, at + 0.4]
    moments.append(at + 1.0)
    span = _span(moments[0], moments[-1])
    parts = [r for r in played.trace.readings_during([span]) if r.source == "nvml-counter"]
    spent = {Piece("heavy", False): 4.0, Piece("light", True): 6.0}
    found = shared(played.trace, parts, pieces, moments, spent)
    assert found["heavy"].joules == pytest.approx(2400.0, rel=0.05)
    assert found["light"].joules == pytest.approx(600.0, rel=0.2)
    assert sum(e.joules or 0.0 for e in found.values()) == pytest.approx(parts[0].joules)


def test_a_block_of_unknown_energy_has_parts_of_unknown_energy(library: Path, tmp_path: Path) -> None:
    played = play(library, tmp_path, ["load steady 100"], 2.0)
    lost = Energy.unknown("gone", source="nvml-counter", device="gpu:0", code=Reason.DEVICE_LOST)
    found = shared(played.trace, [lost], [Piece("a", False)], [1.0, 2.0], {Piece("a", False): 1.0})
    assert (found["a"].joules, found["a"].code) == (None, Reason.DEVICE_LOST)


def _span(start_s: float, end_s: float) -> object:
    from clisonix.meter import Span

    return Span("attribute", start_s, end_s)
