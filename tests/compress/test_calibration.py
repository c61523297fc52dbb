"""Calibration sees exactly what the layers multiply, hands batches over by one stated rule, and cleans up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clisonix.compress.moments as moments_module
from clisonix.compress import plan
from clisonix.compress.calibrate import gather
from clisonix.compress.moments import Moment
from clisonix.compress.survey import survey
from clisonix.errors import ClisonixError


def moments(model: nn.Module, batches: Any, **settings: Any) -> dict[str, Moment]:
    found = gather(model, survey(model), batches, **settings)
    return {name.removesuffix(".weight"): moment for name, moment in found.items()}


CONVS = [
    nn.Conv1d(3, 4, 5, stride=2, padding=1, dilation=3),
    nn.Conv1d(3, 4, 4, padding="same"),
    nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"),
    nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    nn.Conv2d(3, 4, 3, padding="same", padding_mode="replicate", dilation=(2, 1)),
    nn.Conv3d(3, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2)),
]


# PyTorch itself warns, once, that it may copy the input for an even kernel with padding="same".
@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("conv", CONVS, ids=repr)
@pytest.mark.parametrize("chunk", [moments_module._CHUNK_VALUES, 50])
def test_the_moment_of_a_convolution_gives_its_output_energy(
    conv: nn.Conv1d, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mean ‖W x‖² = trace(W M Wᵀ), where the left side is measured on the layer's real output."""
    monkeypatch.setattr(moments_module, "_CHUNK_VALUES", chunk)
    dims = len(conv.kernel_size)
    x = torch.randn(3, 3, *(13, 11, 9)[:dims], generator=torch.Generator().manual_seed(0))
    moment = moments(nn.Sequential(conv), [x[:2], x[2:]])["0"]
    output = conv(x) - conv.bias.reshape(-1, *(1,) * dims)
    assert moment.count == output.numel() // conv.out_channels
    weight = conv.weight.detach().flatten(1).double()
    assert moment.matrix is not None
    expected = output.double().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(
        weight @ moment.matrix.double() @ weight.mT, expected.mT @ expected / len(expected), rtol=1e-4, atol=1e-5
    )


def test_an_unbatched_convolution_and_an_empty_batch() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3))
    x = torch.randn(2, 3, 20)
    together = moments(model, [x])["0"]
    apart = moments(model, [x[0], x[1], x[:0]])["0"]
    torch.testing.assert_close(together.matrix, apart.matrix)


def test_the_moment_of_a_linear_layer_over_any_axes() -> None:
    x = torch.randn(5, 7, 6)
    moment = moments(nn.Sequential(nn.Linear(6, 3)), iter(x.split(2)))["0"]
    rows = x.reshape(-1, 6).double()
    torch.testing.assert_close(moment.matrix, (rows.mT @ rows / 35).float())
    assert moment.count == 35


def test_half_precision_inputs_are_summed_in_float32() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).bfloat16()
    x = torch.randn(3000, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moment = moments(model, [x])["0"]
    expected = (x.double().mT @ x.double() / 3000).float()
    torch.testing.assert_close(moment.matrix, expected, rtol=1e-4, atol=1e-4)


class Asks(nn.Module):
    """Records how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 40)
        self.calls: list[str] = []

    def forward(self, a: Any, b: Any = None, *, c: Any = None, **rest: Any) -> Tensor:
        kinds = {name: type(value).__name__ for name, value in {"a": a, "b": b, "c": c, **rest}.items()}
        self.calls.append(" ".join(f"{name}={kind}" for name, kind in kinds.items() if kind != "NoneType"))
        return self.layer(input=torch.randn(2, 40))


@pytest.mark.parametrize(
    ("batch", "call"),
    [
        (torch.zeros(1), "a=Tensor"),
        ((torch.zeros(1), torch.zeros(1)), "a=Tensor b=Tensor"),
        ([torch.zeros(1)], "a=Tensor"),
        ({"a": torch.zeros(1), "c": torch.zeros(1)}, "a=Tensor c=Tensor"),
        ({"eeg": torch.zeros(1)}, "a=dict"),
        ({"a": torch.zeros(1), "eeg": torch.zeros(1)}, "a=dict"),
        ({"b": torch.zeros(1)}, "a=dict"),
        ({}, "a=dict"),
    ],
)
def test_how_a_batch_is_handed_over(batch: Any, call: str) -> None:
    model = Asks()
    assert moments(model, [batch])["layer"].count == 2
    assert model.calls == [call]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches"),
        (iter(()), "no batches"),
        (torch.zeros(3, 40), "iterable of batches"),
        ({"x": torch.zeros(3, 40)}, "iterable of batches"),
        (3, "iterable of batches"),
        (["x"], "give a tensor, a tuple or a dict"),
        ([(torch.zeros(3, 40), torch.zeros(3))], "without labels"),
    ],
)
def test_batches_that_do_not_suit(batches: Any, message: str) -> None:
    with pytest.raises(ClisonixError, match=message):
        plan(nn.Sequential(nn.Linear(40, 40)), budget=0.5, calibration=batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_first_layer(bad: float) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad, self.later = (nn.Linear(40, 40) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.later(self.bad(self.good(x) * bad))

    model = Breaks().train()
    with pytest.raises(ClisonixError, match="the input of layer 'bad' is not finite"):
        plan(model, budget=0.5, calibration=[torch.randn(4, 40)])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_calibration_runs_in_eval_mode_without_gradients() -> None:
    class Watches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(40, 40), nn.BatchNorm1d(40)

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return F.relu(self.norm(self.layer(x)))

    model = Watches().train()
    before = model.norm.running_mean.clone()
    plan(model, budget=0.8, calibration=[torch.randn(4, 40)])
    assert torch.equal(model.norm.running_mean, before)
    assert model.norm.training


def test_a_layer_fed_with_zeros_is_planned() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    made = plan(model, budget=0.5, calibration=[torch.zeros(8, 40)])
    assert made.forms


def test_memory_does_not_grow_with_the_data() -> None:
    model = nn.Sequential(nn.Linear(40, 40))

    def forever() -> Iterator[Tensor]:
        for _ in range(300):
            yield torch.randn(10, 40)

    moment = moments(model, forever())["0"]
    assert moment.count == 3000
    assert moment.matrix is not None
    assert moment.matrix.shape == (40, 40)
