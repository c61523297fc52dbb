"""The early stop stops seldom while training pays, and soon once it does not."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from clisonix.train.recipe.stopping import NoFurtherGain, epochs_with_cooldown

GAIN, ALPHA, RUNS = 0.02, 0.05, 2000
Curve = Callable[[np.random.Generator, int], np.ndarray]


def falling(noise: float) -> Curve:
    """Each look expects exactly the gain; the steps between looks are independent."""

    def curve(rng: np.random.Generator, looks: int) -> np.ndarray:
        return np.cumprod(1 - GAIN - noise * rng.standard_normal(looks))

    return curve


def in_bursts(rng: np.random.Generator, looks: int) -> np.ndarray:
    """Falls of nothing or of twice the gain, whichever it is for some looks in a row."""
    falls = np.repeat(rng.choice([0.0, 2 * GAIN], size=looks), 1)
    return np.cumprod(1 - falls)


def stopped_at(losses: np.ndarray) -> int | None:
    test = NoFurtherGain(GAIN, ALPHA)
    return next((i for i, loss in enumerate(losses) if test.look(float(loss))), None)


@pytest.mark.parametrize(
    "curve", [falling(0.0), falling(0.005), falling(0.02), falling(0.1), in_bursts], ids=[
        "exact", "little noise", "noise of the gain", "much noise", "bursts"]
)  # fmt: skip
def test_false_stops_are_rarer_than_promised(curve: Curve) -> None:
    rng = np.random.default_rng(5)
    stops = sum(stopped_at(curve(rng, 60)) is not None for _ in range(RUNS))
    # Three standard deviations of a count above the promise would be a defect, not bad luck.
    assert stops <= ALPHA * RUNS + 3 * (ALPHA * (1 - ALPHA) * RUNS) ** 0.5


def test_a_level_loss_stops_within_ten_looks() -> None:
    losses = np.r_[np.cumprod(np.full(12, 0.9)), np.full(20, 0.9**12)]
    found = stopped_at(losses)
    assert found is not None
    assert 14 <= found <= 22


def test_a_noisy_level_loss_stops_in_the_end() -> None:
    rng = np.random.default_rng(1)
    looks = [stopped_at(1 + 0.003 * rng.standard_normal(60)) for _ in range(200)]
    assert sum(found is None for found in looks) < 10


def test_a_steady_fall_above_the_gain_never_stops() -> None:
    assert stopped_at(np.cumprod(np.full(500, 1 - 1.05 * GAIN))) is None


def test_state_goes_through_json_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    losses = np.cumprod(1 - 0.5 * GAIN - 0.01 * rng.standard_normal(12))
    whole, first, second = (NoFurtherGain(GAIN, ALPHA) for _ in range(3))
    for i, loss in enumerate(losses):
        whole.look(float(loss))
        (first if i < 6 else second).look(float(loss))
        if i == 5:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("done", "cooldown", "most", "epochs"), [(7, 0.3, 40, 10), (1, 0.1, 40, 2), (30, 0.5, 40, 40), (10, 0.2, 40, 13)]
)
def test_the_cooldown_is_its_share_of_the_run(done: int, cooldown: float, most: int, epochs: int) -> None:
    assert epochs_with_cooldown(done, cooldown, most) == epochs
