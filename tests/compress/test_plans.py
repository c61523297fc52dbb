"""A plan meets its budget exactly, says why, and survives being read, edited and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import make
from torch import nn
from torch.nn.utils import parametrizations

from clisonix.compress import LiamLinear, Plan, compress, plan, save
from clisonix.errors import ClisonixError


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.75, 0.97, 0.9999])
def test_the_file_never_exceeds_the_budget(pair: tuple[nn.Module, Any], budget: float, file: Path) -> None:
    model, _ = pair
    save(model, file)
    dense = file.stat().st_size
    made = plan(model, budget=budget)
    assert made.dense_file_bytes == dense
    assert made.budget_bytes == int(budget * dense)
    save(compress(model, made), file)
    assert file.stat().st_size == made.file_bytes <= budget * dense


def test_a_budget_is_used_up(pair: tuple[nn.Module, Any]) -> None:
    model, _ = pair
    made = plan(model, budget=0.7)
    cheapest = min(
        (sum(layer.shape[:1]) + layer.bytes_before // (4 * layer.shape[0])) * 4
        for layer in made.layers
        if layer.rank is not None
    )
    assert made.budget_bytes - made.file_bytes < cheapest + 16


def test_bytes_and_fractions_mean_the_same() -> None:
    model, _ = make("mlp")
    half = plan(model, budget=0.5)
    assert plan(model, budget=half.budget_bytes) == half
    assert plan(model, budget=float(half.budget_bytes)) == half


def test_a_budget_beyond_the_model_keeps_everything() -> None:
    model, _ = make("mlp")
    made = plan(model, budget=10**9)
    assert made.ranks == {}
    assert made.file_bytes == made.dense_file_bytes
    assert all(layer.reason for layer in made.layers)


def test_an_impossible_budget_says_what_is_possible() -> None:
    model, _ = make("transformer")
    with pytest.raises(ClisonixError, match="smallest possible file is") as caught:
        plan(model, budget=0.01)
    smallest = int(str(caught.value).split("smallest possible file is ")[1].split(" ")[0].replace(",", ""))
    assert plan(model, budget=smallest).file_bytes == smallest
    assert set(plan(model, budget=smallest).ranks.values()) == {1}
    with pytest.raises(ClisonixError, match="out of reach"):
        plan(model, budget=smallest - 1)


@pytest.mark.parametrize("budget", [0, 0.0, 1, 1.0, -3, float("nan"), float("inf"), True, "half", None])
def test_senseless_budgets(budget: Any) -> None:
    with pytest.raises(ClisonixError, match="fraction of the dense file"):
        plan(nn.Linear(30, 30), budget=budget)


def test_only_bytes_can_be_bounded() -> None:
    with pytest.raises(ClisonixError, match="only 'bytes'"):
        plan(nn.Linear(30, 30), budget=0.5, objective="seconds")


def test_a_plan_reads_back_and_is_deterministic(pair: tuple[nn.Module, Any], tmp_path: Path) -> None:
    model, batch = pair
    made = plan(model, budget=0.6, calibration=[batch])
    assert Plan.from_json(made.to_json()) == made
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    assert plan(model, budget=0.6, calibration=[batch]).to_json() == made.to_json()
    assert str(made).count("\n") >= len(made.layers)


def test_a_rank_lowered_by_hand_works(file: Path) -> None:
    model, batch = make("mlp")
    made = plan(model, budget=0.6)
    content = json.loads(made.to_json())
    entry = next(layer for layer in content["layers"] if layer["rank"] and layer["rank"] > 2)
    entry["rank"] = 2
    mine = Plan.from_json(json.dumps(content))
    assert mine.ranks == {**made.ranks, entry["name"]: 2}
    layer = next(layer for layer in mine.layers if layer.name == entry["name"])
    assert layer.error is None
    assert "edited" in (layer.reason or "")
    assert mine == made.with_rank(entry["name"], 2)
    assert Plan.from_json(mine.to_json()) == mine
    small = compress(model, mine)
    assert small.get_submodule(entry["name"]).weight.rank == 2
    save(small, file)
    assert file.stat().st_size == mine.file_bytes < made.file_bytes
    assert torch.isfinite(small(batch)).all()


def test_a_layer_can_be_put_back_by_hand() -> None:
    model, _ = make("mlp")
    made = plan(model, budget=0.4)
    name = next(iter(made.ranks))
    content = json.loads(made.to_json())
    entry = next(layer for layer in content["layers"] if layer["name"] == name)
    entry |= {"rank": None, "form": "keep"}
    mine = Plan.from_json(json.dumps(content))
    assert name not in mine.ranks
    assert mine == made.with_rank(name, None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(schema="clisonix.plan/9"), "schema"),
        (lambda c: c.pop("layers"), "lacks the key 'layers'"),
        (lambda c: c.update(laiers=[]), "unknown key 'laiers'; did you mean 'layers'"),
        (lambda c: c["layers"][0].update(rank=0), "whole number from 1 to"),
        (lambda c: c["layers"][0].update(rank=10**9), "whole number from 1 to"),
        (lambda c: c["layers"][0].update(rank=True), "whole number from 1 to"),
        (lambda c: c["layers"][0].update(rank="3"), "whole number from 1 to"),
        (lambda c: c["layers"][0].update(rank=None), "form 'keep' with rank null"),
        (lambda c: c["layers"][0].update(shape=[2, 2]), "only ranks should be edited"),
        (lambda c: c["layers"][0].update(shape="big"), "list of sizes"),
        (lambda c: c["layers"][0].update(error=-1), "number of at least 0"),
        (lambda c: c["layers"][0].update(error=float("nan")), "number of at least 0"),
        (lambda c: c["layers"].append(c["layers"][0]), "twice"),
        (lambda c: c["tensors"].append(["x", "F99", [1]]), "expected \\[name, dtype, shape\\]"),
        (lambda c: c["layers"].append(3), "expected a JSON object"),
        (lambda c: c.update(notes=[1]), "list of strings"),
        (lambda c: c.update(budget_bytes=-1), "whole number of bytes"),
    ],
)
def test_plans_that_make_no_sense(edit: Any, message: str) -> None:
    content = json.loads(plan(nn.Sequential(nn.Linear(40, 40)), budget=0.5).to_json())
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
    made = plan(nn.Sequential(nn.Linear(40, 40)), budget=0.5)
    for other in (
        nn.Sequential(nn.Linear(40, 41)),
        nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)),
        nn.Sequential(nn.Linear(40, 40)).double(),
    ):
        with pytest.raises(ClisonixError, match="made for another model"):
            compress(other, made)


class Awkward(nn.Module):
    """One of everything that is not touched."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(64, 64)
        self.embedding = nn.Embedding(50, 64)
        self.tied = nn.Linear(64, 50, bias=False)
        self.tied.weight = self.embedding.weight
        self.normed = parametrizations.weight_norm(nn.Linear(64, 64))
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
        self.grouped = nn.Conv1d(64, 64, 3, groups=8)
        self.transposed = nn.ConvTranspose1d(64, 64, 3)
        self.lstm = nn.LSTM(64, 64)
        self.tiny = nn.Linear(3, 3)
        self.hooked = nn.Linear(64, 64)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)
        self.unused = nn.Linear(64, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.hooked(self.normed(self.plain(self.embedding(tokens))))
        return self.tied(self.encoder(self.attention(x, x, x)[0]))


def test_what_is_not_touched_says_why() -> None:
    torch.manual_seed(0)
    model = Awkward()
    tokens = torch.randint(50, (4, 9))
    made = plan(model, budget=0.97, calibration=[tokens])
    reasons = {layer.name: layer.reason or "" for layer in made.layers}
    for name, word in {
        "embedding": "only Linear and Conv",
        "tied": "shared",
        "normed": "parametrised",
        "attention": "only Linear and Conv",
        "attention.out_proj": "subclass",
        "encoder.linear1": "attention block",
        "encoder.linear2": "attention block",
        "grouped": "grouped",
        "transposed": "only Linear and Conv",
        "lstm": "only Linear and Conv",
        "tiny": "too small",
        "hooked": "hooks",
        "unused": "never called",
    }.items():
        assert word in reasons[name], (name, reasons[name])
    assert list(made.ranks) == ["plain"]
    small = compress(model.eval(), made, calibration=[tokens])
    assert isinstance(small.plain, LiamLinear)
    assert small.tied.weight is small.embedding.weight
    with torch.no_grad():
        assert torch.isfinite(small(tokens)).all()


def test_a_plan_cannot_force_a_layer_that_must_be_kept() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].weight = model[0].weight
    made = plan(model, budget=10**9).with_rank("0", 3)
    with pytest.raises(ClisonixError, match="must be kept: its weight is shared"):
        compress(model, made)


def test_include_and_exclude() -> None:
    model, _ = make("transformer")
    only = plan(model, budget=0.9, include=["blocks.0"])
    assert set(only.ranks) <= {f"blocks.0.{name}" for name in ("qkv", "out", "up", "down")}
    without = plan(model, budget=0.9, exclude="blocks.*.qkv")
    assert only.ranks
    assert not any("qkv" in name for name in without.ranks)
    reasons = {layer.name: layer.reason for layer in without.layers}
    assert reasons["blocks.0.qkv"] == "not among the chosen layers"
    with pytest.raises(ClisonixError, match=r"did you mean 'blocks\.0\.up'"):
        plan(model, budget=0.9, include="blocks.0.upp")


def test_a_module_reached_under_two_names_is_kept() -> None:
    layer = nn.Linear(40, 40)
    with pytest.raises(ClisonixError, match="in 0 layers"):
        plan(nn.Sequential(layer, nn.ReLU(), layer), budget=0.5)


def test_lazy_and_empty_layers() -> None:
    with pytest.raises(ClisonixError, match="lazy module"):
        plan(nn.Sequential(nn.LazyLinear(4)), budget=0.5)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 1))
    model[1].weight = nn.Parameter(torch.zeros(0, 40))
    model[1].bias = None
    made = plan(model, budget=0.6, calibration=[torch.randn(9, 40)])
    assert list(made.ranks) == ["0"]
    assert made.layers[1].reason == "its weight is empty"


def test_a_budget_of_any_number_of_bytes() -> None:
    assert plan(nn.Linear(40, 40), budget=10**400).ranks == {}
