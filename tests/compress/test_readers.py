"""Weights that a module reads past the layer that holds them are kept, whether or not there is calibration."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress import compress, survey


class Merged(nn.Module):
    """As EEG networks merge their first two convolutions: neither layer is ever called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 64), nn.Linear(64, 48, bias=False)
        self.called = nn.Linear(48, 64)
        nn.init.orthogonal_(self.called.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight @ self.first.weight.reshape(64, 48)
        bias = self.second.weight @ self.first.bias
        return self.called(F.linear(x, weight, None if self.second.bias is not None else bias))


class Both(nn.Module):
    """Reads what it also calls: of a weight this asks no more than a compressed one can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(self.layer.weight.dtype))


class Lent(nn.Module):
    """Reads a layer that another module calls."""

    def __init__(self) -> None:
        super().__init__()
        self.run = nn.Sequential(nn.Linear(48, 64))
        self.layer = self.run[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.to(self.layer.weight.dtype))


def reasons(model: nn.Module) -> dict[str, str | None]:
    return {site.name: site.reason for site in survey(model)}


def test_weights_that_are_only_read_are_kept() -> None:
    model = Merged()
    found = reasons(model)
    assert found["called.weight"] is None
    for name in ("first.weight", "second.weight"):
        assert found[name] == "Merged reads its weight itself and never calls it"
    compress(model, 0.8)(torch.randn(2, 48))


def test_weights_that_are_called_as_well_are_not() -> None:
    assert reasons(Both()) == {"layer.weight": None}
    assert reasons(Lent()) == {"run.0.weight": None}
    assert reasons(nn.Sequential(Both(), nn.Linear(64, 48))) == {"0.layer.weight": None, "1.weight": None}
