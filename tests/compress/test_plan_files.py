"""A plan is JSON that people read, edit, compare and keep; its sizes are those of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_forms import FORMS, filled
from torch import nn

from clisonix.compress import Form, LayerPlan, Plan, converted, save, shell, survey
from clisonix.compress.forms import KEEP
from clisonix.compress.sizes import spec_of, stored_tensors
from clisonix.errors import ClisonixError


def model() -> nn.Sequential:
    tied = nn.Sequential(nn.Linear(12, 12), nn.Conv1d(12, 10, 3), nn.Linear(12, 12), nn.Conv1d(4, 4, 1, groups=2))
    tied[2].weight = tied[0].weight
    return tied


def plan_of(model: nn.Module, forms: dict[str, Form] | None = None, **fields: Any) -> Plan:
    """A plan as a planner would make it."""
    layers = []
    for site in survey(model):
        tied = tuple(place.name for place in site.places[1:])
        layers.append(
            LayerPlan(site.name, site.kind, site.shape, KEEP, site.nbytes, site.nbytes, 0.0, site.reason, tied)
        )
    tensors = tuple(spec_of(name, tensor) for name, tensor in stored_tensors(model).items())
    plan = Plan(tuple(layers), tensors, budget=4000, calibrated=False, notes=("by hand",), **fields)
    for name, form in (forms or {}).items():
        plan = plan.with_form(name, form)
    return plan


@pytest.mark.parametrize("form", [form for form in FORMS if form.kind != "diagonal"], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("own", [None, "float16", "float32"])
def test_sizes_are_those_of_the_files(form: Form, dtype: torch.dtype, own: str | None, tmp_path: Path) -> None:
    dense = model().to(dtype)
    form = replace(form, dtype=own)
    plan = plan_of(dense, {"0.weight": form, "1.weight": Form("lowrank", rank=2)})
    matrices = {
        "0.weight": filled(form, (12, 12), form.float_dtype(dtype)),
        "1.weight": filled(Form("lowrank", rank=2), (10, 36), dtype),
    }
    small = converted(dense, matrices)
    file = tmp_path / "model.safetensors"
    save(small, file)
    assert file.stat().st_size == plan.file_bytes
    save(dense, file)
    assert file.stat().st_size == plan.dense_file_bytes
    entry = plan.layer("2.weight")
    assert entry.name == "0.weight"
    assert entry.bytes_after == small[0].weight.nbytes
    assert Plan.from_json(plan.to_json()) == plan
    assert {n: v.shape for n, v in shell(dense, plan).state_dict().items()} == {
        n: v.shape for n, v in small.state_dict().items()
    }


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = plan_of(model(), objective="seconds", unit="s", cost_before=0.25, cost_after=0.125)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert "seconds: 0.25 → 0.125 s" in str(plan)


def test_the_table_names_every_weight_form_and_reason() -> None:
    text = str(plan_of(model(), {"1.weight": Form("lowrank", rank=2, bits=4)}))
    assert "1.weight" in text
    assert "low rank 2, 4 bits" in text
    assert "a grouped convolution" in text
    assert "note: by hand" in text
    assert len(text.splitlines()) == 1 + 3 + 3


def test_editing_by_hand() -> None:
    plan = plan_of(model(), {"0.weight": Form("lowrank", rank=5), "1.weight": Form("binary")})
    plan = replace(plan, layers=tuple(replace(layer, error=0.5, reason="planned") for layer in plan.layers))
    content = json.loads(plan.to_json())
    content["layers"][0]["form"] = {"kind": "integer", "bits": 4, "group": 8}
    mine = Plan.from_json(json.dumps(content))
    assert mine.forms == {"0.weight": Form("integer", bits=4, group=8), "1.weight": Form("binary")}
    assert mine == plan.with_form("0.weight", Form("integer", bits=4, group=8))
    assert mine.layer("0.weight").error is None
    assert "edited" in (mine.layer("0.weight").reason or "")
    assert mine.layer("1.weight") == plan.layer("1.weight")
    content["layers"][0]["form"] = {"kind": "keep"}
    assert Plan.from_json(json.dumps(content)) == plan.with_form("0.weight", KEEP) == plan.with_rank("0.weight", None)
    assert plan.with_rank("2.weight", 3).forms["0.weight"] == Form("lowrank", rank=3)
    assert plan.with_rank("1.weight", 3).forms["1.weight"] == Form("lowrank", rank=3)
    packed = plan.with_form("1.weight", Form("lowrank", rank=6, bits=4)).with_rank("1.weight", 2)
    assert packed.forms["1.weight"] == Form("lowrank", rank=2, bits=4)


def test_what_an_edit_costs_in_time_is_not_known() -> None:
    plan = plan_of(model(), objective="seconds", unit="s", cost_before=0.25, cost_after=0.125)
    assert plan.with_rank("0.weight", 2).cost_after is None
    content = json.loads(plan.to_json())
    content["layers"][0]["form"] = {"kind": "binary"}
    assert Plan.from_json(json.dumps(content)).cost_after is None


def test_edits_that_do_not_fit() -> None:
    plan = plan_of(model())
    with pytest.raises(ClisonixError, match=r"did you mean '1\.weight'"):
        plan.with_rank("1.wieght", 3)
    with pytest.raises(ClisonixError, match="whole number from 1 to 12"):
        plan.with_rank("0.weight", 13)
    with pytest.raises(ClisonixError, match="no matrix; keep it"):
        plan.with_rank("3.weight", 1)


def test_what_differs_between_two_plans() -> None:
    one = plan_of(model(), {"0.weight": Form("lowrank", rank=6)})
    assert one.diff(one) == ""
    other = replace(one.with_rank("0.weight", 3).with_form("1.weight", Form("binary")), budget=3000)
    lines = one.diff(other).splitlines()
    assert lines[0].startswith("  0.weight: low rank 6 → low rank 3, 576 → 288 bytes, error unknown → unknown")
    assert lines[1].startswith("  1.weight: keep → binary, 1,440 → 90 bytes, error 0 → unknown")
    assert lines[2] == "  budget: 4000 → 3000"
    assert lines[3].startswith("  file: ")
    assert len(lines) == 4
    longer = replace(one, layers=one.layers[1:])
    assert one.diff(longer).splitlines()[0] == "- 0.weight: low rank 6"
    assert "+ 0.weight: low rank 6" in longer.diff(one).splitlines()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(schema="clisonix.plan/9"), "schema"),
        (lambda c: c.update(schema="clisonix.plan/1"), "older version"),
        (lambda c: c.pop("layers"), "lacks the key 'layers'"),
        (lambda c: c.update(laiers=[]), "unknown key 'laiers'; did you mean 'layers'"),
        (lambda c: c.update(objective="bites"), "give bytes in bytes, seconds in s"),
        (lambda c: c.update(unit="s"), "give bytes in bytes, seconds in s"),
        (lambda c: c["layers"][0].update(form="lowrank"), "weight '0.weight'.*is no form"),
        (lambda c: c["layers"][0].update(form={"kind": "lowrank", "rank": 0}), "whole number from 1"),
        (lambda c: c["layers"][0].update(form={"kind": "lowrank", "rank": 10**9}), "whole number from 1 to 12"),
        (lambda c: c["layers"][0].update(shape=[2, 2], form={"kind": "binary"}), "only forms should be edited"),
        (lambda c: c["layers"][0].update(name="x", form={"kind": "binary"}), "only forms should be edited"),
        (lambda c: c["layers"][0].update(shape="big"), "list of sizes"),
        (lambda c: c["layers"][0].update(error=-1), "number of at least 0"),
        (lambda c: c["layers"][0].update(error=float("nan")), "number of at least 0"),
        (lambda c: c["layers"][0].update(tied=[1]), "list of strings"),
        (lambda c: c["layers"].append(c["layers"][0]), "twice"),
        (lambda c: c["tensors"].append(["x", "F99", [1]]), "expected \\[name, dtype, shape\\]"),
        (lambda c: c["layers"].append(3), "expected a JSON object"),
        (lambda c: c.update(notes=[1]), "list of strings"),
        (lambda c: c.update(budget=-1), "at least 0"),
        (lambda c: c.update(budget=None), "budget null"),
        (lambda c: c.update(cost_after="much"), "at least 0"),
    ],
)
def test_plans_that_make_no_sense(edit: Any, message: str) -> None:
    content = json.loads(plan_of(model()).to_json())
    edit(content)
    with pytest.raises(ClisonixError, match=message):
        Plan.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "[]"])
def test_what_is_no_plan(text: str, tmp_path: Path) -> None:
    with pytest.raises(ClisonixError):
        Plan.from_json(text)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ClisonixError):
        Plan.load(tmp_path / "plan.json")


def test_a_plan_for_another_model_is_refused() -> None:
    plan = plan_of(nn.Sequential(nn.Linear(40, 40)))
    for other in (
        nn.Sequential(nn.Linear(40, 41)),
        nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)),
        nn.Sequential(nn.Linear(40, 40)).double(),
    ):
        with pytest.raises(ClisonixError, match="made for another model"):
            shell(other, plan)


def test_a_plan_cannot_force_a_weight_that_must_be_kept() -> None:
    dense = nn.Sequential(nn.Linear(40, 40))
    plan = plan_of(dense).with_rank("0.weight", 3)
    dense[0].register_forward_hook(lambda module, args, output: output)
    with pytest.raises(ClisonixError, match="must be kept: it has hooks"):
        shell(dense, plan)
