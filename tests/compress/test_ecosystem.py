"""A compressed model goes where ordinary models go: several processes, low precision, adapters, copies."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import make
from torch import nn
from two_processes import notes_of_both

from clisonix.compress import Form, LiamLinear, compress, load, plan, save
from clisonix.compress.layers import held_matrices

WORKER = Path(__file__).parent / "ecosystem_nodes.py"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return notes_of_both(WORKER, tmp_path_factory.mktemp("ecosystem"))


@pytest.mark.parametrize("way", ["replicated", "sharded"])
def test_two_processes_train_to_where_one_does(notes: list[dict[str, Any]], way: str) -> None:
    for note in notes:
        assert note["moved"] > 1e-5
        assert note[way] < 1e-12


def test_every_tensor_that_learns_is_spread_when_sharded(notes: list[dict[str, Any]]) -> None:
    assert all(note["spread"] == note["parameters"] for note in notes)


@pytest.mark.parametrize("kind", ["mlp", "cnn2d", "transformer"])
def test_autocast_trains_in_bfloat16_with_gradients_in_float32(kind: str) -> None:
    model, batch = make(kind)
    small = compress(model, 0.6, calibration=[batch]).train()
    exact = small(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = small(batch)
        rounded.float().square().mean().backward()
    assert rounded.dtype == torch.bfloat16
    # Eight bits of mantissa through a few layers.
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05 * float(exact.detach().abs().max()))
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())


def test_a_copy_shares_no_memory_and_keeps_ties() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 48), nn.Linear(48, 48), nn.Linear(48, 64, bias=False))
    model[2].weight = model[0].weight
    small = compress(model, 0.4)
    twin = copy.deepcopy(small)
    index = torch.arange(8)
    before = small(index)
    assert torch.equal(twin(index), before)
    assert twin[2].weight is twin[0].weight
    assert twin[2].weight is not small[2].weight
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    assert torch.equal(small(index), before)


def test_adapters_of_peft_learn_on_top_of_a_compressed_model(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 40))
    made = plan(model, budget=0.9)
    for name in ("0.weight", "2.weight"):
        made = made.with_form(name, Form("integer", bits=4, group=16))
    small = compress(model, made)
    batch = torch.randn(16, 48)
    before = small(batch).detach()
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    adapted = peft.get_peft_model(small, peft.LoraConfig(r=4, target_modules=["0", "2"], init_lora_weights=True))
    torch.testing.assert_close(adapted(batch), before)  # an adapter begins as nothing
    learning = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    optimiser = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (adapted(batch) - batch[:, :40]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    base = adapted.unload()
    assert isinstance(base[0], LiamLinear)
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.state_dict().items())
    save(base, tmp_path / "base.safetensors")
    assert torch.equal(load(tmp_path / "base.safetensors", into=model)(batch), before)


def test_matrices_are_where_the_weights_were() -> None:
    model, _ = make("transformer")
    small = compress(model, 0.5)
    names = {f"{n}.{w}" for n, module in small.named_modules() for w, _ in held_matrices(module)}
    assert names
    assert names <= set(model.state_dict())
