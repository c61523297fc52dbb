"""A compressed model is the same function up to the error, and an ordinary trainable module."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from compress_zoo import make
from torch import nn
from torch.nn import functional as F

from clisonix.compress import Form, LiamConv, LiamLinear, Plan, compress, expand, plan, shell, survey
from clisonix.errors import ClisonixError
from clisonix.liam import LowRank


def full_rank(made: Plan, model: nn.Module) -> Plan:
    """`made` with the full rank wherever a layer can be compressed at all."""
    for site in survey(model):
        if site.reason is None:
            made = made.with_form(site.name, Form("lowrank", rank=min(site.shape)))
    return made


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).square().sum() / b.square().sum()).detach())


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_full_rank_plan_reproduces_the_output(pair: tuple[nn.Module, Any], calibrated: bool) -> None:
    model, batch = pair
    calibration = [make_half(batch)] if calibrated else None
    made = full_rank(plan(model, budget=0.9, calibration=calibration), model)
    small = compress(model, made, calibration=calibration)
    assert any(isinstance(module, LiamLinear | LiamConv) for module in small.modules())
    torch.testing.assert_close(small(batch), model(batch), rtol=2e-3, atol=1e-4)


def make_half(batch: Any) -> Any:
    """Fewer samples than layers have inputs: the moments are singular."""
    return {key: value[:4] for key, value in batch.items()} if isinstance(batch, dict) else batch[:4]


def test_the_original_is_unchanged(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    model.train()
    next(iter(model.modules())).training = False
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    compress(model, 0.6, calibration=[batch])
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(isinstance(module, LiamLinear | LiamConv) for module in model.modules())


def test_nothing_is_shared_with_the_original(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    small = compress(model, 0.6)
    want = model(batch)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(model(batch), want)


def test_a_larger_budget_gives_a_smaller_error(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    errors = [
        sum(layer.error or 0.0 for layer in plan(model, budget=budget, calibration=[batch]).layers)
        for budget in (0.35, 0.5, 0.9)
    ]
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[0] > errors[2]


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_planned_error_is_the_measured_one(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "linear":
        model: nn.Module = nn.Sequential(nn.Linear(40, 30, bias=False))
        batch = torch.randn(2000, 40) * torch.logspace(0, -2, 40)
    else:
        model = nn.Sequential(nn.Conv2d(4, 30, 3, padding=1, stride=2, dilation=2, bias=False))
        batch = torch.randn(20, 4, 16, 16).cumsum(-1)
    made = plan(model, budget=0.55, calibration=batch.split(7))
    small = compress(model, made, calibration=batch.split(7))
    assert made.layers[0].error is not None
    # The ridge that keeps unseen directions alive shifts the error by its own small size.
    assert relative(small(batch), model(batch)) == pytest.approx(made.layers[0].error, rel=0.03, abs=1e-4)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_whitened_beats_plain_on_anisotropic_inputs(kind: str) -> None:
    torch.manual_seed(1)
    model, batch = make("mlp") if kind == "linear" else make("cnn1d")
    mix = torch.randn(batch.shape[1], batch.shape[1]) * torch.logspace(0.5, -2, batch.shape[1])
    data = torch.einsum("nc...,dc->nd...", torch.randn(400, *batch.shape[1:]), mix)
    train, test = data[:300], data[300:]
    layer = model[0]
    alone = nn.Sequential(layer)
    made = plan(alone, budget=0.6, calibration=[train]).with_form("0.weight", Form("lowrank", rank=4))
    blind = plan(alone, budget=0.6).with_form("0.weight", Form("lowrank", rank=4))
    assert made.forms == blind.forms
    whitened = relative(compress(alone, made, calibration=[train])(test), alone(test))
    plain = relative(compress(alone, blind)(test), alone(test))
    assert whitened < 0.8 * plain


def test_a_calibrated_plan_without_calibration_warns() -> None:
    model, batch = make("mlp")
    made = plan(model, budget=0.5, calibration=[batch])
    with pytest.warns(UserWarning, match="made with calibration"):
        compress(model, made)


def test_a_budget_is_the_same_as_its_plan() -> None:
    model, batch = make("transformer")
    walked = []
    direct = compress(model, 0.5, calibration=(walked.append(1) or batch for _ in range(3)))
    assert len(walked) == 3
    planned = compress(model, plan(model, budget=0.5, calibration=[batch] * 3), calibration=[batch] * 3)
    assert torch.equal(direct(batch), planned(batch))


def test_gradients_flow_and_training_reduces_the_loss(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    small = compress(model, 0.6, calibration=[batch]).train()
    target = torch.arange(16) % 3
    optimiser = torch.optim.Adam(small.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(small(batch), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_frozen_stays_frozen_and_training_mode_is_kept() -> None:
    model, _ = make("mlp")
    model[0].requires_grad_(False)
    model.train()
    small = compress(model, 0.5)
    assert isinstance(small[0], LiamLinear)
    assert not any(parameter.requires_grad for parameter in small[0].parameters())
    assert all(parameter.requires_grad for parameter in small[3].parameters())
    assert all(module.training for module in small.modules())
    assert not expand(small)[0].weight.requires_grad


def test_expand_gives_ordinary_layers_with_the_same_map(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    small = compress(model, 0.6, calibration=[batch])
    dense = expand(small)
    assert [type(module) for module in dense.modules()] == [type(module) for module in model.modules()]
    assert [repr(module) for module in dense.modules()] == [repr(module) for module in model.modules()]
    assert {name: value.shape for name, value in dense.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    torch.testing.assert_close(dense(batch), small(batch), rtol=1e-3, atol=1e-5)


def test_shell_has_the_structure_and_no_values(pair: tuple[nn.Module, Any]) -> None:
    model, _ = pair
    made = plan(model, budget=0.6)
    empty, small = shell(model, made), compress(model, made)
    assert {n: v.shape for n, v in empty.state_dict().items()} == {n: v.shape for n, v in small.state_dict().items()}
    weights = [m.weight for m in empty.modules() if isinstance(m, LiamLinear | LiamConv)]
    assert weights
    assert all(not weight.dense().any() for weight in weights)
    empty.load_state_dict(small.state_dict())


@pytest.mark.parametrize("kind", ["mlp", "cnn2d", "transformer"])
def test_compile_fullgraph(kind: str) -> None:
    model, batch = make(kind)
    small = compress(model, 0.6)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch), small(batch), rtol=1e-4, atol=1e-5)
    compiled(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_autocast_gives_the_dtypes_of_the_dense_model(pair: tuple[nn.Module, Any]) -> None:
    model, batch = pair
    small = compress(model, 0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(batch).dtype == model(batch).dtype == torch.bfloat16


def test_deepcopy_and_repr() -> None:
    model, batch = make("cnn2d")
    small = compress(model, 0.5)
    assert torch.equal(copy.deepcopy(small)(batch), small(batch))
    text = repr(small)
    assert "LiamConv" in text
    assert "% of the dense bytes" in text


def test_half_precision_models_stay_half() -> None:
    model, batch = make("mlp")
    small = compress(model.bfloat16(), 0.5)
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}
    assert small(batch.bfloat16()).dtype == torch.bfloat16


def test_a_model_that_is_one_layer() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 48)
    small = compress(model, 0.5)
    assert isinstance(small, LiamLinear)
    assert type(expand(small)) is nn.Linear


def test_a_layer_is_replaced_wherever_it_is_referred_to() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(40, 40)
            self.route = [self.first]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.route[0](x)

    small = compress(Twice(), 0.5)
    assert isinstance(small.first, LiamLinear)
    assert small.route[0] is small.first


def test_a_bias_shared_by_two_layers_stays_shared() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].bias = model[0].bias
    small = compress(model, 0.5)
    assert small[0].bias is small[1].bias
    assert small[0].bias is not model[0].bias
    dense = expand(small)
    assert dense[0].bias is dense[1].bias


def test_compressing_twice_is_refused() -> None:
    model, _ = make("mlp")
    small = compress(model, 0.5)
    with pytest.raises(ClisonixError, match="compressed already"):
        compress(small, 0.5)


def test_a_compiled_model_is_refused() -> None:
    model, _ = make("mlp")
    with pytest.raises(ClisonixError, match="compress it first"):
        compress(torch.compile(model, backend="eager"), 0.5)


def test_weights_that_are_not_finite_name_the_layer() -> None:
    model, _ = make("mlp")
    with torch.no_grad():
        model[3].weight[0, 0] = math.nan
    with pytest.raises(ClisonixError, match="layer '3'"):
        compress(model, 0.5)


def test_layers_refuse_what_does_not_fit() -> None:
    weight = LowRank(torch.zeros(4, 2), torch.zeros(2, 9))
    with pytest.raises(ClisonixError, match=r"give \(4,\)"):
        LiamLinear(weight, nn.Parameter(torch.zeros(5)))
    with pytest.raises(ClisonixError, match="give its flattened weight"):
        LiamConv(weight, None, like=nn.Conv1d(3, 4, 5))
    with pytest.raises(ClisonixError, match="groups=1"):
        LiamConv(weight, None, like=nn.Conv1d(4, 4, 1, groups=2))


@pytest.mark.parametrize("first", ["clisonix.plan", "clisonix.compress"])
def test_the_public_face_does_not_depend_on_what_is_used_first(first: str) -> None:
    code = f"import clisonix, torch\n{first}\nprint(type(clisonix.compress(torch.nn.Linear(64, 64), 0.5)).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "LiamLinear", done.stderr
