"""Which parameters of a model are matrices, and who may say otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clisonix.compress.layers import LiamConv, LiamLinear
from clisonix.errors import ClisonixError
from clisonix.liam import Binary, Dense, LowRank, unpack
from clisonix.liam.blockdiagonal import Batch
from clisonix.train import Spectral


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(4, 6, 3)
        self.grouped = nn.Conv1d(4, 6, 3, groups=2)
        self.depthwise = nn.Conv1d(4, 4, 3, groups=4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.GRU(8, 4)
        self.thin = LiamLinear(LowRank(torch.randn(8, 2), torch.randn(2, 8)), nn.Parameter(torch.zeros(8)))
        self.dense = LiamLinear(Dense(torch.randn(8, 8)))
        self.learner = unpack(Binary.nearest(torch.randn(8, 16)))
        self.blocks = LiamLinear(Batch(torch.randn(2, 4, 4)))
        self.norm = nn.LayerNorm(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.free = nn.Parameter(torch.randn(3, 8))
        self.row = nn.Parameter(torch.randn(1, 8))
        self.head = nn.Linear(8, 3)


def kinds(groups: list[dict]) -> dict[str, str]:  # type: ignore[type-arg]
    return {name: group["kind"] for group in groups for name, _ in group["params"]}


def test_the_rule() -> None:
    model = Everything()
    groups = Spectral.groups(model)
    found = kinds(groups)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, kind in found.items() if kind == "lowrank"} == {"thin.weight.left", "thin.weight.right"}
    assert {name for name, kind in found.items() if kind == "matrix"} == {
        "conv.weight", "grouped.weight", "attention.in_proj_weight", "attention.out_proj.weight",
        "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "dense.weight.weight", "blocks.weight.weight", "free",
    }  # fmt: skip
    pieces = {n: g["pieces"] for g in groups if g["kind"] == "matrix" for n, _ in g["params"] if g["pieces"] > 1}
    assert pieces == {"grouped.weight": 2, "attention.in_proj_weight": 3}
    assert [n for g in groups if g.get("stack") for n, _ in g["params"]] == ["blocks.weight.weight"]
    undecayed = {n for g in groups if g.get("weight_decay") == 0.0 for n, _ in g["params"]}
    assert undecayed == {n for n, p in model.named_parameters() if p.ndim < 2 and p.requires_grad}
    optimiser = Spectral(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimiser.step()
    assert {n for n, p in model.named_parameters() if (p != before[n]).any()} == found.keys()


def test_patterns_overrule_it() -> None:
    model = Everything()
    found = kinds(
        Spectral.groups(model, matrix=["head.weight", "table.*"], adamw=["attention.*", "thin.weight.left", "free"])
    )
    assert found["head.weight"] == found["table.weight"] == "matrix"
    assert found["attention.in_proj_weight"] == found["thin.weight.left"] == found["free"] == "adamw"
    assert found["thin.weight.right"] == "matrix"
    found = kinds(Spectral.groups(model, kernels=False, pairs=False, head=False))
    assert found["conv.weight"] == "adamw"
    assert found["thin.weight.left"] == found["thin.weight.right"] == found["head.weight"] == "matrix"
    cut = Spectral.groups(model, pieces={"dense.*": 2})
    assert [g["pieces"] for g in cut for n, _ in g["params"] if n == "dense.weight.weight"] == [2]


def test_patterns_that_cannot_be_are_refused() -> None:
    model = Everything()
    with pytest.raises(ClisonixError, match=r"'haed\.\*' fits the name of no trainable parameter"):
        Spectral.groups(model, adamw=["haed.*"])
    with pytest.raises(ClisonixError, match="is one string"):
        Spectral.groups(model, adamw="head")
    with pytest.raises(ClisonixError, match="cannot be 3 matrices"):
        Spectral.groups(model, matrix=["dense.*"], pieces={"dense.*": 3})
    with pytest.raises(ClisonixError, match="cannot be 1 matrices"):
        Spectral.groups(model, matrix=["norm.*"])


def test_a_tied_embedding_is_no_matrix() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False), nn.Linear(10, 2))
    model[2].weight = model[0].weight
    assert kinds(Spectral.groups(model)) == {
        "0.weight": "adamw", "1.weight": "matrix", "1.bias": "adamw", "3.weight": "adamw", "3.bias": "adamw"
    }  # fmt: skip


def test_factors_that_are_shared_or_frozen_are_matrices() -> None:
    left, right = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))
    model = nn.ModuleList([LowRank(left, right), LowRank(left, torch.randn(2, 8)), nn.Linear(8, 8)])
    assert set(kinds(Spectral.groups(model)).values()) == {"matrix", "adamw"}
    frozen = nn.ModuleList([LowRank(torch.randn(8, 2), torch.randn(2, 8))])
    frozen[0].right.requires_grad_(False)
    assert kinds(Spectral.groups(frozen)) == {"0.left": "matrix"}


def test_a_convolution_of_low_rank_is_one_product() -> None:
    conv = nn.Conv1d(4, 6, 3)
    thin = LiamConv(LowRank(torch.randn(6, 2), torch.randn(2, 12)), conv.bias, like=conv)
    assert kinds(Spectral.groups(thin)) == {
        "weight.left": "lowrank", "weight.right": "lowrank", "bias": "adamw"
    }  # fmt: skip
    assert set(kinds(Spectral.groups(thin, kernels=False)).values()) == {"adamw"}
