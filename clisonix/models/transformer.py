"""The stream transformer: any set of modalities in, class scores out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.models.choosing import choose_tokens
from clisonix.models.tokens import Tokeniser, TokenSpec

# B batch, T tokens, D width, H heads


class StreamTransformer(nn.Module):
    """A pre-norm transformer over the tokens of all modalities of a window.

    Tokens carry the time of their middle (so streams of unlike rate meet on one axis) and their modality.
    Tokens without signal behind them are hidden from attention and from the average that feeds the classifier;
    a window without any signal gives the scores of a learned summary token alone.

    Follows Vaswani et al. 2017 (arXiv:1706.03762) with pre-normalisation (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(
        self,
        modalities: Mapping[str, TokenSpec],
        classes: int,
        *,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        expansion: int = 3,
        dropout: float = 0.1,
    ) -> None:
        """Make a model with random weights; call `fit` before training.

        Args:
            modalities: how each modality is cut into tokens.
            classes: number of classes.
            width: width of a token, a multiple of `2 * heads`.
            depth: number of blocks.
            heads: attention heads.
            expansion: hidden width of the feed-forward layer, as a multiple of `width`.
            dropout: probability.

        Raises:
            ClisonixError: no modality, fewer than two classes, or a width that does not divide.
        """
        super().__init__()
        if not modalities:
            raise ClisonixError("a stream transformer needs at least one modality")
        if classes < 2:
            raise ClisonixError(f"there are {classes} classes, expected at least 2")
        if width % (2 * heads):
            raise ClisonixError(f"width {width} is not a multiple of twice the {heads} heads")
        self.tokenisers = nn.ModuleDict({name: Tokeniser(spec, width) for name, spec in modalities.items()})
        self.kind = nn.Parameter(torch.randn(len(modalities), width) * 0.02)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, expansion, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for i, name in enumerate(modalities):
            times_s = self._tokeniser(name).times_s
            self.register_buffer(f"_position_{i}", sinusoids(times_s, width), persistent=False)

    def forward(self, window: Mapping[str, Any], *, keep: float = 1.0, span: float = 1.0) -> Tensor:
        """Class scores of a batch of windows.

        Args:
            window: `streams` and `masks` as `SignalFabric` gives them; a modality may be absent.
            keep: share of each modality's tokens to look at, drawn anew for each window; for training.
            span: length of the stretch that these are drawn from, as a share of the window; the same stretch in all
                modalities. See `choose_tokens`.

        Returns:
            `(batch, classes)`.
        """
        streams, masks = window["streams"], window["masks"]
        batch = next(iter(streams.values())).shape[0]
        few = keep * span < 1
        starts = torch.rand(batch, 1, device=self.summary.device) if few else None
        tokens_BTD = [self.summary.expand(batch, 1, -1)]
        seen_BT = [torch.ones(batch, 1, dtype=torch.bool, device=self.summary.device)]
        for i, name in enumerate(self.tokenisers):
            if name not in streams:
                continue
            tokeniser, position = self._tokeniser(name), getattr(self, f"_position_{i}")
            seen, chosen = tokeniser.trusted(masks[name]), None
            if starts is not None:
                places = tokeniser.times_s.to(seen.device) * (tokeniser.spec.rate_hz / tokeniser.spec.samples)
                chosen = choose_tokens(seen, places, starts, keep=keep, span=span)
                seen, position = seen.gather(1, chosen), position[chosen]
            tokens_BTD.append(tokeniser(streams[name], masks[name], chosen) + self.kind[i] + position)
            seen_BT.append(seen)
        x_BTD = self.dropout(torch.cat(tokens_BTD, dim=1))
        seen = torch.cat(seen_BT, dim=1)
        attend_B11T = seen[:, None, None, :]
        for block in self.blocks:
            x_BTD = block(x_BTD, attend_B11T)
        x_BTD = self.norm(x_BTD)
        weight_BT1 = seen.unsqueeze(-1).to(x_BTD.dtype)
        scores: Tensor = self.head((x_BTD * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1))
        return scores

    def fit(self, window: Mapping[str, Any]) -> None:
        """Fit the scalings of every tokeniser to a batch of training windows."""
        for name in self.tokenisers:
            if name in window["streams"]:
                self._tokeniser(name).fit(window["streams"][name], window["masks"][name])

    def _tokeniser(self, name: str) -> Tokeniser:
        tokeniser = self.tokenisers[name]
        assert isinstance(tokeniser, Tokeniser)
        return tokeniser


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x_BTD: Tensor, attend_B11T: Tensor) -> Tensor:
        """Args: `x_BTD` tokens; `attend_B11T` bool, True where a token may be attended to."""
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.norm_attention(x_BTD)).view(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attend_B11T)
        x_BTD = x_BTD + self._drop(self.out(mixed.transpose(1, 2).reshape(B, T, D)))
        return x_BTD + self._drop(self.down(F.gelu(self.up(self.norm_mlp(x_BTD)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def sinusoids(times_s: Tensor, width: int) -> Tensor:
    """`(tokens, width)` sines and cosines of time, with periods from 20 ms to 200 s."""
    rates = 2 * math.pi / torch.logspace(math.log10(0.02), math.log10(200.0), width // 2)
    angles = times_s[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
