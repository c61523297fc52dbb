"""Augmentation changes what was measured and keeps masks true."""

from __future__ import annotations

import math

import pytest
import torch

from clisonix.fabric import Window
from clisonix.train.augment import augment
from clisonix.train.config import AugmentConfig


def window(n: int = 64) -> Window:
    torch.manual_seed(0)
    x = torch.randn(n, 3, 200)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, :, 150:] = False
    return Window(
        streams={"imu": torch.where(mask, x, 0.0)},
        masks={"imu": mask},
        t0_s=torch.zeros(n),
        label=torch.zeros(n, dtype=torch.long),
        window=torch.arange(n),
    )


@pytest.mark.parametrize(
    "change", [{"gain": 0.3}, {"noise": 0.3}, {"shift_s": 0.5}, {"rotate_rad": 1.0}, {"tempo": 0.2}]
)
def test_each_change_is_random_masked_and_leaves_the_input_alone(change: dict[str, float]) -> None:
    given, before = window(), window()
    once = augment(given, AugmentConfig(**change), {"imu": 50.0})
    twice = augment(given, AugmentConfig(**change), {"imu": 50.0})
    assert torch.equal(given["streams"]["imu"], before["streams"]["imu"])
    assert not torch.equal(once["streams"]["imu"], given["streams"]["imu"])
    assert not torch.equal(once["streams"]["imu"], twice["streams"]["imu"])
    assert (once["streams"]["imu"][~once["masks"]["imu"]] == 0).all()


def test_nothing_asked_changes_nothing() -> None:
    assert torch.equal(
        augment(window(), AugmentConfig(), {"imu": 50.0})["streams"]["imu"], window()["streams"]["imu"]
    )


def test_rotation_keeps_lengths_and_angles() -> None:
    given = window()["streams"]["imu"]
    turned = augment(window(), AugmentConfig(rotate_rad=math.pi), {"imu": 50.0})["streams"]["imu"]
    assert torch.allclose(given.norm(dim=1), turned.norm(dim=1), atol=1e-4)
    assert torch.allclose(
        given.transpose(1, 2) @ given, turned.transpose(1, 2) @ turned, atol=1e-3
    )  # all inner products
    assert torch.linalg.det(torch.linalg.lstsq(given.transpose(1, 2), turned.transpose(1, 2)).solution).min() > 0.99


@pytest.mark.parametrize("change", [{"shift_s": 0.5}, {"tempo": 0.2}, {"shift_s": 0.3, "tempo": 0.1}])
def test_streams_of_one_window_move_together_in_time(change: dict[str, float]) -> None:
    """Values that are their own time still agree after both streams were moved."""
    times = {"fast": torch.arange(400) / 100, "slow": torch.arange(200) / 50}
    given = Window(
        streams={k: t.expand(16, 1, -1).clone() for k, t in times.items()},
        masks={k: torch.ones(16, 1, len(t), dtype=torch.bool) for k, t in times.items()},
        t0_s=torch.zeros(16),
        label=torch.zeros(16, dtype=torch.long),
        window=torch.arange(16),
    )
    moved = augment(given, AugmentConfig(**change), {"fast": 100.0, "slow": 50.0})
    fast, slow = moved["streams"]["fast"][:, 0, ::2], moved["streams"]["slow"][:, 0]
    both = moved["masks"]["fast"][:, 0, ::2] & moved["masks"]["slow"][:, 0]
    assert both.float().mean() > 0.8
    assert not torch.allclose(slow, given["streams"]["slow"][:, 0], atol=1e-3)
    assert (fast - slow)[both].abs().max() < 0.011


def test_speed_is_what_was_asked() -> None:
    torch.manual_seed(1)
    ramp = torch.arange(400.0).expand(500, 1, -1) / 100
    given = Window(
        streams={"x": ramp.clone()},
        masks={"x": torch.ones(500, 1, 400, dtype=torch.bool)},
        t0_s=torch.zeros(500),
        label=torch.zeros(500, dtype=torch.long),
        window=torch.arange(500),
    )
    moved = augment(given, AugmentConfig(tempo=0.2), {"x": 100.0})["streams"]["x"][:, 0]
    speeds = (moved[:, 220] - moved[:, 180]) / 0.4
    assert 0.8 <= speeds.min() < 0.82
    assert 1.18 < speeds.max() <= 1.2001


def test_gain_has_the_asked_spread() -> None:
    given = window(4000)
    out = augment(given, AugmentConfig(gain=0.3), {"imu": 50.0})["streams"]["imu"]
    factors = (out[:, :, 0] / given["streams"]["imu"][:, :, 0]).log()
    assert factors.std().item() == pytest.approx(0.3, rel=0.05)
