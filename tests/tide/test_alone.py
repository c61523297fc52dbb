"""What holds for a group of one, which any script is that nobody launched as a group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clisonix.errors import ClisonixError
from clisonix.tide import TideEngine, TideSettings


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def move(model: nn.Module, generator: torch.Generator, scale: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (scale * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def test_a_full_outer_step_without_momentum_leaves_the_weights_where_they_are() -> None:
    model, generator = make_model(), torch.Generator().manual_seed(1)
    with TideEngine.join(model, inner_steps=1, outer_lr=1.0, outer_momentum=0.0) as tide:
        for _ in range(4):
            move(model, generator)
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            report = tide.step()
            assert report is not None
            assert report.bytes_sent == 0
            for name, tensor in model.state_dict().items():
                torch.testing.assert_close(tensor, before[name], rtol=1e-6, atol=1e-7)


def test_the_outer_step_is_torch_nesterov_on_the_pseudo_gradient() -> None:
    model, generator = make_model().double(), torch.Generator().manual_seed(2)
    outer = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    reference = torch.optim.SGD(outer, lr=0.6, momentum=0.8, nesterov=True)
    tide = TideEngine(model, inner_steps=1, outer_lr=0.6, outer_momentum=0.8)
    for _ in range(5):
        move(model, generator)
        for mine, local in zip(outer, model.parameters(), strict=True):
            mine.grad = mine.detach() - local.detach()
        reference.step()
        tide.step()
        for mine, local in zip(outer, model.parameters(), strict=True):
            torch.testing.assert_close(local.detach(), mine.detach(), rtol=1e-12, atol=1e-14)


def test_half_precision_weights_keep_outer_steps_below_their_resolution() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    tide = TideEngine(model, inner_steps=1, outer_lr=0.1, outer_momentum=0.0)
    for _ in range(4):
        # One unit in the last place of bfloat16 above 1; a tenth of it rounds away in the weight itself.
        with torch.no_grad():
            model.weight += 2**-7
        tide.step()
    assert tide.state_dict()["outer/weight"].item() == pytest.approx(1 + 0.4 * 2**-7, rel=1e-6)


def test_complex_weights_move_in_both_parts() -> None:
    model = nn.Module()
    model.register_parameter("spectrum", nn.Parameter(torch.tensor([1 + 2j, 3 - 1j])))
    tide = TideEngine(model, inner_steps=1, outer_lr=0.5, outer_momentum=0.0)
    with torch.no_grad():
        model.spectrum += 2 - 4j
    tide.step()
    assert model.spectrum.tolist() == [2 + 0j, 4 - 3j]


def test_weights_keep_their_storage_and_layout() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    address = model.weight.data_ptr()
    tide = TideEngine(model, inner_steps=1, outer_lr=1.0, outer_momentum=0.0)
    wanted = torch.arange(4 * 27.0).view(4, 3, 3, 3)
    with torch.no_grad():
        model.weight.copy_(wanted)
    tide.step()
    assert model.weight.data_ptr() == address
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.weight.detach(), wanted)


def test_buffers_the_model_does_not_save_stay_out() -> None:
    model = make_model()
    model.register_buffer("cache", torch.zeros(3), persistent=False)
    model.register_buffer("kept", torch.zeros(3))
    names = TideEngine(model).state_dict()
    assert "buffer/kept" in names
    assert "buffer/cache" not in names


def test_steps_left_over_are_shared_on_leaving_but_not_after_an_error() -> None:
    model = make_model()
    with TideEngine.join(model, inner_steps=10) as tide:
        tide.step()
    assert tide.state_dict()["syncs"] == 1
    broken = TideEngine.join(model, inner_steps=10)
    broken.step()
    with pytest.raises(KeyError), broken:
        raise KeyError
    assert broken.state_dict()["syncs"] == 0


def test_an_engine_that_was_left_takes_no_more_steps() -> None:
    tide = TideEngine(make_model())
    tide.close()
    with pytest.raises(ClisonixError, match="has left its group"):
        tide.step()


def test_a_state_goes_on_bitwise_and_does_not_share_memory() -> None:
    model, twin = make_model(), make_model()
    tide, resumed = TideEngine(model, inner_steps=2), TideEngine(twin, inner_steps=2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        move(model, generator)
        tide.step()
    saved = {name: tensor.clone() for name, tensor in tide.state_dict().items()}
    resumed.load_state_dict(saved)
    saved["outer/0.weight"] += 1
    twin.load_state_dict(model.state_dict())
    again = generator.clone_state()
    move(model, generator)
    move(twin, again)
    first, second = tide.step(), resumed.step()
    assert first is not None
    assert second is not None
    assert (first.step, first.sync, first.digest) == (second.step, second.sync, second.digest)
    assert first.sync == 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda state: state.pop("syncs"), "lacks 'syncs'"),
        (lambda state: state.update({"outer/0.wieght": torch.zeros(1)}), "did you mean 'outer/0.weight'"),
        (lambda state: state.update({"outer/0.bias": torch.zeros(4)}), r"\(4,\), but this model needs"),
        (lambda state: state.update({"outer/0.bias": torch.zeros(5).half()}), "torch.float16"),
    ],
)
def test_the_state_of_another_model_is_refused(damage: object, sentence: str) -> None:
    tide = TideEngine(make_model())
    state = tide.state_dict()
    damage(state)  # type: ignore[operator]
    with pytest.raises(ClisonixError, match=sentence):
        tide.load_state_dict(state)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"inner_steps": 0}, "inner_steps is 0"),
        ({"inner_steps": 2.5}, "inner_steps is 2.5"),
        ({"outer_lr": float("nan")}, "outer_lr is nan"),
        ({"outer_momentum": 1.0}, "outer_momentum is 1.0"),
        ({"inner_step": 3}, "did you mean 'inner_steps'"),
    ],
)
def test_bad_settings_are_one_sentence(given: dict[str, float], sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        TideEngine.join(make_model(), given)
    with pytest.raises(ClisonixError, match=sentence):
        TideEngine.join(make_model(), **given)


def test_single_settings_go_over_a_whole_object() -> None:
    tide = TideEngine.join(make_model(), TideSettings(inner_steps=7, outer_lr=0.3), outer_lr=0.4)
    assert tide.settings == TideSettings(inner_steps=7, outer_lr=0.4, outer_momentum=0.9)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(2, 2, device="meta"), nn.LazyLinear(2)])
def test_a_model_that_cannot_be_shared_is_refused(model: nn.Module) -> None:
    with pytest.raises(ClisonixError, match=r"no floating-point parameter|whole dense tensors"):
        TideEngine(model)
