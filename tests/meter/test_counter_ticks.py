"""The grid of a counter's ticks is found again from samples that only bracket them."""

from __future__ import annotations

import numpy as np
import pytest

from clisonix.meter.estimation.ticks import Ticks
from clisonix.meter.pace import TICK_SHARE


def sampled(
    t_s: np.ndarray, period_s: float, phase_s: float, jitter_s: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Counter values at sample times, and the true time of the tick that each shows."""
    number = np.arange(-3, int(t_s[-1] / period_s) + 3)
    ticks = np.sort(phase_s + number * period_s + jitter_s * np.random.default_rng(seed).uniform(-1, 1, len(number)))
    at = np.searchsorted(ticks, t_s, side="right") - 1
    return 50.0 * np.arange(len(ticks))[at], ticks[at]


def errors_of(t_s: np.ndarray, period_s: float, phase_s: float, jitter_s: float = 0.0) -> tuple[np.ndarray, Ticks]:
    values, shown_s = sampled(t_s, period_s, phase_s, jitter_s)
    ticks = Ticks(t_s, values, 0.1)
    known = ticks.known(0, len(ticks))
    return known.time_s - shown_s[ticks.at[known.index]], ticks


def times(seconds: float, gap_s: float, seed: int = 0, burst: bool = True) -> np.ndarray:
    """As the sampling thread takes them: fine at first, then evenly, a few late."""
    rng = np.random.default_rng(seed)
    t_s = np.concatenate([np.arange(0, 0.35, 0.01) if burst else [0.0], np.arange(0.35, seconds, gap_s)])
    return np.sort(t_s + rng.exponential(0.0003, len(t_s)) + (rng.random(len(t_s)) < 0.02) * rng.uniform(0, 0.03))


def test_ticks_are_placed_within_a_few_milliseconds_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    wrong, count, runs, typical_s = 0, 0, 60, []
    for seed in range(runs):
        period_s, jitter_s = float(rng.uniform(0.08, 0.13)), float(rng.choice([0.0, 0.001, 0.003]))
        t_s = times(float(rng.uniform(4, 30)), TICK_SHARE * period_s, seed)
        error_s, ticks = errors_of(t_s, period_s, float(rng.uniform(0, period_s)), jitter_s)
        assert len(error_s) > 0.9 * t_s[-1] / period_s
        assert ticks.period_s == pytest.approx(period_s, rel=0.01)
        typical_s.append(float(np.median(np.abs(error_s))))
        # A tick may be left out where it is unclear; hardly ever is one taken for its neighbour.
        wrong, count = wrong + int(np.sum(np.abs(error_s) > 0.03)), count + len(error_s)
    assert wrong <= 0.001 * count
    assert np.mean(np.array(typical_s) < 0.008) > 0.97


@pytest.mark.parametrize("period_s", [0.02, 0.05, 0.2, 1.0])
def test_a_period_far_from_the_nominal_one_is_learnt(period_s: float) -> None:
    t_s = np.concatenate([np.arange(0, 0.1, 0.004), np.arange(0.1, 0.35, 0.01), np.arange(0.35, 20, 0.08944)])
    error_s, ticks = errors_of(t_s, period_s, 0.3 * period_s)
    if period_s > 0.1:
        assert ticks.period_s == pytest.approx(period_s, rel=0.02)
    # The samples that come later are too far apart to follow a fast counter; it is fine enough as it is.
    assert float(np.abs(error_s).max()) <= max(0.1, 0.6 * period_s)
    assert float(np.median(np.abs(error_s))) < 0.03


def test_samples_as_far_apart_as_the_ticks_leave_them_unclear_and_say_so() -> None:
    t_s = np.arange(0, 20, 0.1)
    error_s, ticks = errors_of(t_s, 0.1, 0.03)
    known = ticks.known(0, len(ticks))
    assert float(np.median(np.hypot(known.own_s, known.common_s))) > 0.02
    assert float(np.median(np.abs(error_s))) < 0.1


def test_a_counter_without_a_beat_keeps_the_brackets() -> None:
    rng = np.random.default_rng(0)
    ticks_s = np.cumsum(rng.uniform(0.02, 0.4, 400))
    t_s = np.arange(0, 60, 0.03)
    at = np.searchsorted(ticks_s, t_s, side="right")
    ticks = Ticks(t_s, 10.0 * at, 0.1)
    known = ticks.known(1, len(ticks))
    inside = (known.time_s >= ticks.earliest_s[known.index]) & (known.time_s <= ticks.latest_s[known.index])
    assert np.all(inside)


def test_figures_of_a_stretch_do_not_change_when_the_run_goes_on() -> None:
    t_s = times(60.0, 0.08944)
    values, _ = sampled(t_s, 0.1, 0.04)
    whole, part = Ticks(t_s, values, 0.1), Ticks(t_s[:600], values[:600], 0.1)
    # Two chunks on, the first is complete.
    assert whole.known(0, 100).time_s.tolist() == part.known(0, 100).time_s.tolist()


def test_late_and_wrongly_timed_samples_are_outvoted() -> None:
    periods, wrong, count = [], 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        read_s = np.sort(times(6.0, 0.08944, seed) + (rng.random(len(times(6.0, 0.08944, seed))) < 0.2) * 0.08)
        phase_s = float(rng.uniform(0, 0.1))
        values, shown_s = sampled(read_s, 0.1, phase_s)
        # One in twenty was read up to 30 ms before the moment it is taken for.
        t_s = np.maximum.accumulate(read_s + (rng.random(len(read_s)) < 0.05) * rng.uniform(0, 0.03, len(read_s)))
        ticks = Ticks(t_s, values, 0.1)
        known = ticks.known(0, len(ticks))
        error_s = known.time_s - shown_s[ticks.at[known.index]]
        periods.append(ticks.period_s)
        wrong, count = wrong + int(np.sum(np.abs(error_s) > 0.03)), count + len(error_s)
    assert np.mean(np.abs(np.array(periods) / 0.1 - 1) < 0.01) > 0.9, periods
    assert wrong < 0.02 * count, (wrong, count)


def test_a_counter_that_stood_still_for_long_keeps_its_beat() -> None:
    t_s = times(20.0, 0.08944)
    values, shown_s = sampled(t_s, 0.1, 0.04)
    still = (t_s > 7.0) & (t_s < 12.0)
    values = np.where(still, values[np.searchsorted(t_s, 7.0)], values)
    ticks = Ticks(t_s, values, 0.1)
    known = ticks.known(0, len(ticks))
    error_s = known.time_s - shown_s[ticks.at[known.index]]
    assert ticks.period_s == pytest.approx(0.1, rel=0.002)
    assert float(np.abs(error_s).max()) < 0.01
