"""Seconds and joules: what is measured decides, what was measured is remembered, and budgets of them are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clisonix.compress import plan
from clisonix.compress.costs import Costs, CpuTime, WallClock, alternating, stand_in, user_cache
from clisonix.compress.forms import Form
from clisonix.compress.planner import Choices, Planned, prepare
from clisonix.errors import ClisonixError
from clisonix.liam import Integer, LowRank


class Counted:
    """A cost that is the same on every machine: numbers that a product reads."""

    name = "numbers"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, work: Callable[[], object], calls: int) -> float:
        self.calls += 1
        read = [0.0]

        class Reads(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is torch.nn.functional.linear:
                    read[0] += args[1].numel()
                return func(*args, **(kwargs or {}))

        with Reads():
            work()
        return max(read[0], 1.0)


def net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
    return model, torch.randn(20, 32)


def test_a_budget_of_measured_cost_is_kept_and_used() -> None:
    model, x = net()
    costs = Costs(Counted(), rounds=1)
    made = plan(model, budget=0.5, objective="seconds", calibration=[x], costs=costs, forms="low rank")
    assert made.cost_before == 3 * 32 * 32
    assert made.budget == made.cost_before / 2
    assert made.cost_after is not None
    assert 0.8 * made.budget <= made.cost_after <= made.budget
    expected = sum(
        form.rank * 64 if (form := made.forms.get(f"{i}.weight")) and form.rank else 32 * 32 for i in (0, 2, 4)
    )
    assert made.cost_after == pytest.approx(expected)
    assert made.unit == "s"
    with pytest.raises(ClisonixError, match="out of reach: the least possible is"):
        plan(model, budget=1e-6, objective="joules", calibration=[x], costs=costs, forms="low rank")


class Crowded(Counted):
    """As if factors took twice as long beside other layers as alone."""

    def __call__(self, work: Callable[[], object], calls: int) -> float:
        seen: list[Tensor] = []

        class Weights(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is torch.nn.functional.linear:
                    seen.append(args[1])
                return func(*args, **(kwargs or {}))

        with Weights():
            work()
        crowd = 1.5 if len(seen) > 2 else 1.0
        return sum(w.numel() * (crowd if w.shape[0] != w.shape[1] else 1.0) for w in seen)


def test_what_a_plan_costs_is_what_the_whole_model_takes_not_the_sum_of_its_layers() -> None:
    model, x = net()
    made = plan(
        model, budget=0.6, objective="seconds", calibration=[x], costs=Costs(Crowded(), rounds=1), forms="low rank"
    )
    assert made.cost_after is not None
    ranks = [form.rank if (form := made.forms.get(f"{i}.weight")) else None for i in (0, 2, 4)]
    taken = sum(32 * 32 if rank is None else 1.5 * rank * 64 for rank in ranks)
    assert made.cost_after == pytest.approx(taken, rel=1e-6)
    assert made.cost_after <= made.budget


def test_measurements_are_remembered_in_memory_and_in_the_file(tmp_path: Path) -> None:
    model, x = net()
    file = tmp_path / "cache" / "costs.json"

    def asked(costs: Costs, probe: Counted) -> int:
        before = probe.calls
        plan(model, budget=0.6, objective="seconds", calibration=[x], costs=costs, forms="low rank")
        return probe.calls - before

    probe = Counted()
    costs = Costs(probe, file, rounds=1)
    first, again = asked(costs, probe), asked(costs, probe)
    # The dense layers and the whole model, before and after, are measured anew, nothing else.
    assert again == 4 + 2 * 3 < first
    other = Counted()
    assert asked(Costs(other, file, rounds=1), other) == 4 + 2 * 3
    content = json.loads(file.read_text())
    assert content["schema"] == "clisonix.costs/2"
    assert content["costs"]
    for damage in ("{", "[]", '{"schema": "clisonix.costs/2", "costs": {"a": "b"}}'):
        file.write_text(damage)
        assert Costs(other, file)._known == {}


def test_a_measured_objective_needs_a_batch_and_a_known_name() -> None:
    model, x = net()
    with pytest.raises(ClisonixError, match="needs a batch to measure with"):
        plan(model, budget=0.5, objective="seconds")
    with pytest.raises(ClisonixError, match="did you mean 'seconds'"):
        plan(model, budget=0.5, objective="second", calibration=[x])


def test_probes_see_time_and_alternate() -> None:
    a = torch.randn(256, 256)
    with torch.no_grad():
        short, long = alternating(WallClock(), [lambda: a @ a, lambda: [a @ a for _ in range(8)]], 5)
        joules = alternating(CpuTime(watts=2.0), [lambda: [a @ a for _ in range(20)]], 3)[0]
    assert 0 < short < long
    assert joules > 0


def test_stand_ins_have_the_form_and_finite_products() -> None:
    for form, kind in ((Form("lowrank", rank=4), LowRank), (Form("integer", bits=5, group=8), Integer)):
        made = stand_in(form, (16, 24), torch.float32, torch.device("cpu"))
        assert isinstance(made, kind)
        assert bool(made(torch.ones(2, 24)).isfinite().all())


def test_where_costs_are_kept() -> None:
    home = Path("/home/someone")
    assert user_cache({}, home) == home / ".cache/clisonix/costs.json"
    assert user_cache({"XDG_CACHE_HOME": "/tmp/x"}, home) == Path("/tmp/x/clisonix/costs.json")


def test_what_prepare_keeps_is_what_the_plan_names() -> None:
    model, x = net()
    planned: Planned = prepare(model, 0.3, Choices(), calibration=[x])
    assert {site.name for site in planned.sites} == set(planned.plan.forms)
    assert set(planned.made) <= set(planned.plan.forms)
