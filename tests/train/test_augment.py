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


@pytest.mark.parametrize("change", [{"gain": 0.3}, {"noise": 0.3}, {"shift_s": 0.5}, {"rotate_rad": 1.0}])
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


def test_shift_moves_samples_and_mask_together() -> None:
    given = window()
    moved = augment(given, AugmentConfig(shift_s=0.5), {"imu": 50.0})
    for before, after, mask in zip(
        given["streams"]["imu"], moved["streams"]["imu"], moved["masks"]["imu"], strict=True
    ):
        by = int(mask[0].nonzero()[-1]) - 149
        assert -25 <= by <= 25
        kept = slice(max(by, 0), min(150 + by, 200))
        assert torch.equal(after[:, kept], before[:, kept.start - by : kept.stop - by])


def test_gain_has_the_asked_spread() -> None:
    given = window(4000)
    out = augment(given, AugmentConfig(gain=0.3), {"imu": 50.0})["streams"]["imu"]
    factors = (out[:, :, 0] / given["streams"]["imu"][:, :, 0]).log()
    assert factors.std().item() == pytest.approx(0.3, rel=0.05)
