"""Random changes of training windows, on tensors, on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clisonix.fabric import Window
from clisonix.train.config import AugmentConfig


def augment(window: Window, config: AugmentConfig, rates_hz: Mapping[str, float]) -> Window:
    """A batch of windows with fresh random changes, drawn from torch's generator of the device.

    Args:
        window: a batch; it is not changed.
        config: which changes and how large.
        rates_hz: rate of each modality.
    """
    streams, masks = dict(window["streams"]), dict(window["masks"])
    batch, device = len(window["label"]), window["label"].device
    # Streams of one window stay aligned: they share the change of speed and the shift.
    speed = 1 + (torch.rand(batch, 1, 1, device=device) * 2 - 1) * config.tempo
    shift_s = (torch.rand(batch, 1, 1, device=device) * 2 - 1) * config.shift_s
    for name, x in streams.items():
        mask = masks[name]
        if config.rotate_rad and x.shape[1] % 3 == 0:
            x = _rotate(x, config.rotate_rad)
        if config.gain:
            x = x * torch.exp(torch.randn(*x.shape[:2], 1, device=x.device) * config.gain)
        if config.noise:
            spread = x.std(dim=2, keepdim=True) if x.shape[2] > 1 else torch.ones_like(x)
            x = torch.where(mask, x + spread * torch.randn_like(x) * config.noise, 0.0)
        if config.tempo or config.shift_s:
            x, mask = _retime(x, mask, speed, shift_s * rates_hz[name])
        streams[name], masks[name] = x, mask
    return Window(streams=streams, masks=masks, t0_s=window["t0_s"], label=window["label"], window=window["window"])


def _retime(x: Tensor, mask: Tensor, speed: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Play each window at its own speed about its middle, moved by `shift` samples; what comes in is masked.

    Linear interpolation; a value is trusted only if both samples it lies between were measured.
    """
    last = x.shape[2] - 1
    source = (torch.arange(x.shape[2], device=x.device) - last / 2) * speed + last / 2 - shift
    # A shift by whole samples at unchanged speed must be exact, so rounding noise is taken off.
    source = torch.where((source - source.round()).abs() < 1e-3, source.round(), source)
    inside = (source >= 0) & (source <= last)
    below = source.floor().clamp(0, last).long()
    above = source.ceil().clamp(0, last).long()
    share = (source - below).to(x.dtype)
    first, second = below.expand(x.shape), above.expand(x.shape)
    moved = mask.gather(2, first) & mask.gather(2, second) & inside
    mixed = x.gather(2, first) * (1 - share) + x.gather(2, second) * share
    return torch.where(moved, mixed, 0.0), moved


def _rotate(x: Tensor, most_rad: float) -> Tensor:
    """Turn each group of three axes by one random rotation per window (Rodrigues' formula)."""
    batch = x.shape[0]
    axis = torch.nn.functional.normalize(torch.randn(batch, 3, device=x.device), dim=1)
    angle = (torch.rand(batch, 1, 1, device=x.device) * 2 - 1) * most_rad
    cross = torch.linalg.cross(
        torch.eye(3, device=x.device).expand(batch, 3, 3), axis[:, None, :].expand(batch, 3, 3)
    )
    identity = torch.eye(3, device=x.device)
    rotation = identity + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    groups = x.view(batch, -1, 3, x.shape[2])
    return torch.einsum("bij,bgjt->bgit", rotation, groups).reshape(x.shape)
