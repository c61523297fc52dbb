"""Tokenisers: windows of any rate and channel count become tokens of one width."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

Front = Literal["patch", "spectrum", "mel"]


class TokenSpec(NamedTuple):
    """How one modality is cut into tokens.

    Attributes:
        channels: channels of the stream.
        rate_hz: its rate.
        samples: samples per window.
        front: `patch` takes the samples as they are, `spectrum` the log power of every channel's short-time
            spectrum, `mel` the same pooled into mel bands.
        token_s: length of the stretch behind one token.
        hop_s: step between tokens.
        bands: mel bands (`mel`).
        low_hz: lowest frequency kept (`spectrum`, `mel`).
        high_hz: highest frequency kept; None is half the rate.
    """

    channels: int
    rate_hz: float
    samples: int
    front: Front = "patch"
    token_s: float = 0.2
    hop_s: float = 0.1
    bands: int = 40
    low_hz: float = 0.0
    high_hz: float | None = None

    @property
    def length(self) -> int:
        """Samples per token."""
        return max(1, round(self.token_s * self.rate_hz))

    @property
    def hop(self) -> int:
        """Samples between tokens."""
        return max(1, round(self.hop_s * self.rate_hz))

    @property
    def tokens(self) -> int:
        """Tokens per window."""
        return (self.samples - self.length) // self.hop + 1


class Tokeniser(nn.Module):
    """One modality's window to tokens.

    The signal is centred and scaled per channel, cut into overlapping stretches, described by its samples or by
    its log spectrum, scaled again per feature, and projected by one linear map. Both scalings are fitted to the
    training windows by `fit` and are saved with the model.
    """

    def __init__(self, spec: TokenSpec, width: int) -> None:
        """Make an unfitted tokeniser.

        Raises:
            ClisonixError: the window is shorter than one token, or no frequency lies in the band.
        """
        super().__init__()
        if spec.tokens < 1:
            raise ClisonixError(
                f"a window of {spec.samples / spec.rate_hz:g} s is shorter than one token of {spec.token_s:g} s"
            )
        self.spec = spec
        features = spec.length
        # Fixed tables of the front end follow from the spec, so they are not saved.
        self.taper: Tensor | None
        self.filters: Tensor | None
        if spec.front == "patch":
            self.register_buffer("taper", None)
            self.register_buffer("filters", None)
        else:
            filters = _filters(spec)
            features = filters.shape[1]
            self.register_buffer("taper", torch.hann_window(spec.length), persistent=False)
            self.register_buffer("filters", filters, persistent=False)
        self.center: Tensor
        self.scale: Tensor
        self.feature_center: Tensor
        self.feature_scale: Tensor
        self.register_buffer("center", torch.zeros(spec.channels, 1))
        self.register_buffer("scale", torch.ones(spec.channels, 1))
        self.register_buffer("feature_center", torch.zeros(spec.channels, features))
        self.register_buffer("feature_scale", torch.ones(spec.channels, features))
        self.project = nn.Linear(spec.channels * features, width)

    @property
    def times_s(self) -> Tensor:
        """`(tokens,)` middle of each token, from the start of the window."""
        return (torch.arange(self.spec.tokens) * self.spec.hop + self.spec.length / 2) / self.spec.rate_hz

    def forward(self, samples: Tensor, mask: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Tokens of a window.

        Args:
            samples: `(batch, channels, time)`.
            mask: `(batch, channels, time)` bool, True where measured.
            chosen: `(batch, k)` which tokens to make; None makes all. The others cost nothing.

        Returns:
            `(batch, tokens, width)`, or `(batch, k, width)`.
        """
        features = (self.describe(samples, mask, chosen) - self.feature_center) / self.feature_scale
        tokens: Tensor = self.project(features.flatten(2))
        return tokens

    def trusted(self, mask: Tensor) -> Tensor:
        """`(batch, tokens)` bool: True where at least half of what lies behind the token was measured."""
        measured: Tensor = self._stretches(mask).sum(dim=(2, 3)) * 2
        return measured >= self.spec.channels * self.spec.length

    def describe(self, samples: Tensor, mask: Tensor, chosen: Tensor | None = None) -> Tensor:
        """`(batch, tokens, channels, features)` before the second scaling; `chosen` as for `forward`."""
        scaled = torch.where(mask, (samples - self.center) / self.scale, 0.0)
        stretches = self._stretches(scaled)
        if chosen is not None:
            stretches = stretches[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]
        if self.taper is None or self.filters is None:
            return stretches
        # Half precision has no FFT on most devices, and log power needs the range.
        with torch.autocast(stretches.device.type, enabled=False):
            spectrum = torch.fft.rfft(stretches.float() * self.taper).abs().square()
            return torch.log(spectrum @ self.filters + 1e-4)

    @torch.no_grad()
    def fit(self, samples: Tensor, mask: Tensor) -> None:
        """Fit both scalings to training windows `(batch, channels, time)`; unmeasured values do not count."""
        count = mask.sum(dim=(0, 2)).clamp(min=1).unsqueeze(1)
        center = torch.where(mask, samples, 0.0).sum(dim=(0, 2)).unsqueeze(1) / count
        spread = torch.where(mask, samples - center, 0.0).square().sum(dim=(0, 2)).unsqueeze(1) / count
        self.center.copy_(center)
        self.scale.copy_(spread.sqrt().clamp(min=1e-6))
        features = self.describe(samples, mask)
        trusted = self._stretches(mask).all(dim=-1).unsqueeze(-1)
        count = trusted.sum(dim=(0, 1)).clamp(min=1)
        center = torch.where(trusted, features, 0.0).sum(dim=(0, 1)) / count
        spread = torch.where(trusted, features - center, 0.0).square().sum(dim=(0, 1)) / count
        if self.spec.front == "patch":  # the samples are scaled already; a scale per position would be noise
            return
        self.feature_center.copy_(center)
        self.feature_scale.copy_(spread.sqrt().clamp(min=1e-3))

    def _stretches(self, x: Tensor) -> Tensor:
        """`(batch, channels, time)` to overlapping `(batch, tokens, channels, length)`."""
        return x.unfold(2, self.spec.length, self.spec.hop).transpose(1, 2)


def _filters(spec: TokenSpec) -> Tensor:
    """`(frequencies, features)` that selects a band, or pools it into mel bands."""
    frequencies = torch.fft.rfftfreq(spec.length, 1 / spec.rate_hz)
    high_hz = spec.rate_hz / 2 if spec.high_hz is None else spec.high_hz
    inside = (frequencies >= spec.low_hz) & (frequencies <= high_hz)
    if not inside.any():
        raise ClisonixError(
            f"no frequency of a {spec.token_s:g} s token lies between {spec.low_hz:g} and {high_hz:g} Hz"
        )
    if spec.front == "spectrum":
        return torch.eye(len(frequencies))[:, inside]
    # Triangular bands, evenly spaced on the mel scale of O'Shaughnessy (1987): 2595 log10(1 + f / 700).
    low, high = (2595 * math.log10(1 + f / 700) for f in (spec.low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, spec.bands + 2) / 2595) - 1)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    bands = torch.minimum(rising, falling).clamp(min=0)
    # A band narrower than the spacing of the spectrum may hold no frequency: it takes the nearest one.
    for band in (bands.sum(dim=0) == 0).nonzero().flatten().tolist():
        bands[(frequencies - edges[band + 1]).abs().argmin(), band] = 1.0
    return bands
