"""How often sensors are sampled, and what that may cost."""

from __future__ import annotations

import numpy as np
import pytest

from clisonix.meter.pace import LEARNING_S, MEMORY_SAMPLES, SHARE_OF_A_CORE, Pace


def gaps(pace: Pace, count: int, start_s: float = 10.0) -> np.ndarray:
    return np.array([pace.next(start_s, 0) for _ in range(count)])


def test_every_tick_is_seen_where_samples_are_cheap() -> None:
    pace = Pace(0.1)
    pace.spent(20e-6)
    found = gaps(pace, 50)
    assert np.all(found < 0.1)
    # Samples drift through the counter's period instead of staying at one place in it.
    places = np.cumsum(found) / 0.1 % 1
    assert np.all(np.histogram(places, 10, (0, 1))[0] >= 3)


@pytest.mark.parametrize("cost_s", [100e-6, 200e-6, 400e-6])
def test_dear_samples_become_rare_but_still_pin_down_ticks(cost_s: float) -> None:
    pace = Pace(0.1)
    for _ in range(500):
        pace.spent(cost_s)
    found = gaps(pace, 400)
    assert cost_s / found.mean() == pytest.approx(SHARE_OF_A_CORE, rel=0.02)
    assert np.mean(found < 0.08) > 0.4
    assert gaps(pace, 4, LEARNING_S / 2).max() < 0.1


def test_who_looks_closely_sees_every_tick_whatever_samples_cost() -> None:
    pace = Pace(0.1)
    for _ in range(100):
        pace.spent(400e-6)
    pace.closely += 1
    assert gaps(pace, 20).max() < 0.1
    pace.closely -= 1
    assert gaps(pace, 20).max() > 0.5


def test_one_slow_sample_changes_little() -> None:
    pace = Pace(0.1)
    for _ in range(100):
        pace.spent(30e-6)
    pace.spent(1.0)
    assert gaps(pace, 2).max() < 0.1


def test_several_gpus_may_cost_in_proportion() -> None:
    one, eight = Pace(0.1), Pace(0.1, counters=8)
    for pace in (one, eight):
        pace.spent(400e-6)
    assert gaps(eight, 100).mean() < gaps(one, 100).mean() / 3


def test_without_a_ticking_counter_short_runs_are_seen_as_finely_as_long_ones() -> None:
    pace = Pace(None)
    assert pace.next(1.0, 10) == 0.1
    assert pace.next(50.0, 100) == pytest.approx(0.5)
    assert pace.next(5000.0, 1000) == 1.0


def test_memory_grows_ever_slower() -> None:
    assert Pace(0.1).next(1e6, 2 * MEMORY_SAMPLES) == pytest.approx(4 * Pace(0.1).next(1e6, 0))


def test_a_fixed_period_is_kept() -> None:
    pace = Pace(0.1, 0.25)
    pace.spent(1.0)
    assert pace.fixed
    assert gaps(pace, 3).tolist() == [0.25, 0.25, 0.25]
