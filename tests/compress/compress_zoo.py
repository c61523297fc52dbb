"""Small models of the kinds that the room must serve, each with a batch of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Takes one dict, as the models of this library do."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv1d(4, width, 8, stride=4)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(2))
        self.head = nn.Linear(width, 5)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch["eeg"]).mT
        x = x + self.position[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(48, 96), nn.ReLU(), nn.LayerNorm(96), nn.Linear(96, 64), nn.Tanh(), nn.Linear(64, 10)
    )


def cnn1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(6, 32, 5, stride=2, padding=2),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Conv1d(32, 32, 3, padding="same", dilation=2, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv1d(32, 48, 4, padding="same", padding_mode="reflect", bias=False),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


def cnn2d() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, (3, 5), stride=(1, 2), padding=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, dilation=(2, 1), padding="valid"),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 40, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 4),
    )


def cnn3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 16, 3, padding=(1, 0, 1), stride=(1, 2, 1)),
        nn.ReLU(),
        nn.Conv3d(16, 24, (1, 3, 2), dilation=(1, 1, 2)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "mlp": (mlp, lambda n: torch.randn(n, 48)),
    "cnn1d": (cnn1d, lambda n: torch.randn(n, 6, 40)),
    "cnn2d": (cnn2d, lambda n: torch.randn(n, 3, 12, 14)),
    "cnn3d": (cnn3d, lambda n: torch.randn(n, 2, 5, 9, 7)),
    "transformer": (Transformer, lambda n: {"eeg": torch.randn(n, 4, 64)}),
}


def make(kind: str, samples: int = 16) -> tuple[nn.Module, Any]:
    """A model of the zoo in eval mode and a batch for it, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        build, batch = ZOO[kind]
        return build().eval(), batch(samples)
