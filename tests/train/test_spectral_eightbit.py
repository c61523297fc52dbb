"""State in one byte an entry: what rounding must not do."""

from __future__ import annotations

import pytest
import torch

from clisonix.train.optim.eightbit import BLOCK, MEAN, MOMENTUM, SQUARE, Code, pack, unpack

CODES = pytest.mark.parametrize("code", [MOMENTUM, MEAN, SQUARE], ids=["momentum", "mean", "square"])


def values(code: Code, *shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return x if code.signed else x.square()


@CODES
def test_rounding_keeps_the_mean(code: Code) -> None:
    x = values(code, 5, 103)
    seen = torch.stack([unpack(*pack(x, step, code), code) for step in range(400)])
    spread = (seen - x).abs().amax(dim=0)
    assert (seen.mean(dim=0) - x).abs().max() < 0.02 * spread.max()
    assert spread.max() < 0.05 * x.abs().max()


@CODES
def test_a_slow_decay_gets_through(code: Code) -> None:
    """To the nearest level, an average that loses a thousandth a step would never move."""
    x = values(code, BLOCK)
    start = x.abs().sum()
    x[0] = keep = 4.0
    levels, scale = pack(x, 0, code)
    for step in range(1, 701):
        x = unpack(levels, scale, code) * 0.999
        x[0] = keep
        levels, scale = pack(x, step, code)
    left = float(unpack(levels, scale, code)[1:].abs().sum() / start)
    assert left == pytest.approx(0.999**700, rel=0.15)


def test_zeros_stay_and_small_squares_do_not_vanish() -> None:
    x = torch.zeros(2 * BLOCK + 7)
    assert torch.equal(unpack(*pack(x, 3, SQUARE), SQUARE), x)
    x[0], x[1] = 1.0, 1e-15
    back = unpack(*pack(x, 3, SQUARE), SQUARE)
    assert back[0] == 1.0
    assert back[1] > 0
    assert not back[2:].any()
