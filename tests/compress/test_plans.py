"""A plan meets its budget exactly, says why, and survives being read, edited and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import make
from torch import nn

from clisonix.compress import Plan, compress, plan, save
from clisonix.errors import ClisonixError


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.75, 0.97, 0.9999])
def test_the_file_never_exceeds_the_budget(pair: tuple[nn.Module, Any], budget: float, file: Path) -> None:
    model, _ = pair
    save(model, file)
    dense = file.stat().st_size
    made = plan(model, budget=budget)
    assert made.dense_file_bytes == dense
    assert made.budget == int(budget * dense)
    save(compress(model, made), file)
    assert file.stat().st_size == made.file_bytes <= budget * dense


def test_bytes_and_fractions_mean_the_same() -> None:
    model, _ = make("mlp")
    half = plan(model, budget=0.5)
    assert plan(model, budget=half.budget) == half
    assert plan(model, budget=float(half.budget)) == half


def test_a_budget_beyond_the_model_keeps_everything() -> None:
    model, _ = make("mlp")
    made = plan(model, budget=10**9)
    assert made.forms == {}
    assert made.file_bytes == made.dense_file_bytes
    assert all(layer.reason for layer in made.layers)


def test_an_impossible_budget_says_what_is_possible() -> None:
    model, _ = make("transformer")
    with pytest.raises(ClisonixError, match="smallest possible file is") as caught:
        plan(model, budget=0.01)
    smallest = int(str(caught.value).split("smallest possible file is ")[1].split(" ")[0].replace(",", ""))
    assert plan(model, budget=smallest).file_bytes == smallest
    with pytest.raises(ClisonixError, match="out of reach"):
        plan(model, budget=smallest - 1)


@pytest.mark.parametrize("budget", [0, 0.0, -3, float("nan"), float("inf"), True, "half", None])
def test_senseless_budgets(budget: Any) -> None:
    with pytest.raises(ClisonixError, match="fraction of the dense file"):
        plan(nn.Linear(30, 30), budget=budget)


def test_a_plan_reads_back_and_is_deterministic(pair: tuple[nn.Module, Any], tmp_path: Path) -> None:
    model, batch = pair
    made = plan(model, budget=0.6, calibration=[batch])
    assert Plan.from_json(made.to_json()) == made
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    assert plan(model, budget=0.6, calibration=[batch]).to_json() == made.to_json()
    assert str(made).count("\n") >= len(made.layers)


def test_a_form_changed_by_hand_is_what_is_built(file: Path) -> None:
    model, batch = make("mlp")
    made = plan(model, budget=0.6)
    content = json.loads(made.to_json())
    entry = next(layer for layer in content["layers"] if layer["form"]["kind"] != "keep")
    entry["form"] = {"kind": "lowrank", "rank": 2}
    mine = Plan.from_json(json.dumps(content))
    assert mine == made.with_rank(entry["name"], None).with_rank(entry["name"], 2)
    small = compress(model, mine)
    assert small.get_submodule(entry["name"]).rank == 2
    save(small, file)
    assert file.stat().st_size == mine.file_bytes
    assert torch.isfinite(small(batch)).all()


def test_a_plan_for_another_model_is_refused() -> None:
    made = plan(nn.Sequential(nn.Linear(40, 40)), budget=0.5)
    with pytest.raises(ClisonixError, match="made for another model"):
        compress(nn.Sequential(nn.Linear(40, 41)), made)


def test_weights_that_the_data_never_reach_are_kept() -> None:
    model = nn.Sequential(nn.Linear(40, 40))
    model.unused = nn.Linear(40, 40)
    model.forward = lambda x: model[0](x)
    made = plan(model, budget=0.9, calibration=[torch.randn(9, 40)])
    assert "never" in (made.layer("unused.weight").reason or "")


def test_include_and_exclude() -> None:
    model, _ = make("transformer")
    only = plan(model, budget=0.9, include=["blocks.0"])
    assert only.forms
    assert set(only.forms) <= {f"blocks.0.{name}.weight" for name in ("qkv", "out", "up", "down")}
    without = plan(model, budget=0.9, exclude="blocks.*.qkv")
    assert not any("qkv" in name for name in without.forms)
    assert without.layer("blocks.0.qkv.weight").reason == "not among the chosen layers"
    with pytest.raises(ClisonixError, match=r"did you mean 'blocks\.0\.up'"):
        plan(model, budget=0.9, include="blocks.0.upp")


def test_lazy_and_empty_layers() -> None:
    with pytest.raises(ClisonixError, match="lazy module"):
        plan(nn.Sequential(nn.LazyLinear(4)), budget=0.5)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 1))
    model[1].weight = nn.Parameter(torch.zeros(0, 40))
    model[1].bias = None
    made = plan(model, budget=0.6, calibration=[torch.randn(9, 40)])
    assert list(made.forms) == ["0.weight"]
    assert made.layers[1].reason == "it is empty"


def test_a_budget_of_any_number_of_bytes() -> None:
    assert plan(nn.Linear(40, 40), budget=10**400).forms == {}
