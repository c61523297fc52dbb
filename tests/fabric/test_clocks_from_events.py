"""Clocks from events that two streams share: edges, anchors, and cross-correlation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks import blind, edges, from_anchors, pair_events

FloatArray = npt.NDArray[np.float64]


def switched(times: FloatArray, at: FloatArray, rise_s: float = 0.03) -> FloatArray:
    """A signal that switches at `at` (half way), with straight slopes."""
    values = np.zeros_like(times)
    for k, when in enumerate(at.tolist()):
        ramp = np.clip((times - when) / rise_s + 0.5, 0, 1)
        values += ramp if k % 2 == 0 else -ramp
    return values


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([64.0, 250.0, 1000.0]), st.floats(-50, 50), st.floats(0.1, 100))
def test_edges_are_found_to_a_small_part_of_a_sample(seed: int, rate: float, low: float, swing: float) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(0, 20, 1 / rate)
    at = np.cumsum(rng.uniform(1.0, 2.0, 9))
    values = low + swing * (switched(times, at, 4 / rate) + rng.normal(0, 0.005, len(times)))
    found = edges(values, times)
    assert len(found.times_s) == 9
    assert found.rising.tolist() == [k % 2 == 0 for k in range(9)]
    assert np.max(np.abs(found.times_s - at)) < 0.1 / rate
    np.testing.assert_allclose(found.width_s, 2 / rate, rtol=0.3)


def test_noise_and_ringing_are_no_edges() -> None:
    times = np.arange(0, 10, 0.004)
    values = switched(times, np.array([2.0, 6.0]))
    values[(times > 4) & (times < 4.02)] = 0.0
    assert len(edges(values, times).times_s) == 2
    with pytest.raises(ClisonixError, match="one level"):
        edges(np.ones(100), np.arange(100.0))
    with pytest.raises(ClisonixError, match="jitter"):
        edges([0.0, 1.0, 0.0, 1.0], [0.0, 2.0, 1.0, 3.0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5000, 5000), st.floats(-1e6, 1e6), st.integers(7, 30))
def test_anchors_give_back_drift_and_leave_outliers_out(seed: int, ppm: float, offset: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.sort(rng.uniform(0, 60, count))
    own[0], own[-1] = 0.0, 60.0
    fabric = offset + own * (1 + 1e-6 * ppm) + rng.uniform(-1e-4, 1e-4, count)
    wrong = rng.choice(np.arange(1, count - 1), count // 4, replace=False)
    fabric[wrong] += rng.uniform(0.5, 3.0, len(wrong))
    clock = from_anchors(own, fabric)
    assert clock.segments[0].measurements == count - len(wrong)
    at = np.linspace(0, 60, 20)
    assert np.max(np.abs(clock(at) - offset - at * (1 + 1e-6 * ppm))) < 6e-4


def test_the_stated_uncertainty_of_few_anchors_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(500):
        own = np.array([0.0, 2.0, 30.0, 34.0])
        clock = from_anchors(own, 5.0 + own * 1.003 + rng.normal(0, 5e-4, 4), tolerance_s=0.01)
        at = np.array([rng.uniform(0, 34)])
        inside += bool(abs(clock(at) - 5.0 - 1.003 * at)[0] <= clock.uncertainty(at)[0])
    assert inside / 500 >= 0.92


def test_one_or_two_anchors_need_a_word_on_how_good_they_are() -> None:
    with pytest.raises(ClisonixError, match="anchor_sd_s"):
        from_anchors([1.0, 5.0], [2.0, 6.0])
    clock = from_anchors([1.0, 5.0], [2.0, 6.004], anchor_sd_s=1e-3)
    assert clock.segments[0].rate_ppm == pytest.approx(1000)
    assert clock.uncertainty([1.0])[0] == pytest.approx(1.96e-3, rel=0.01)
    assert from_anchors([1.0], [2.0], anchor_sd_s=1e-3).uncertainty([1001.0])[0] > 0.1
    with pytest.raises(ClisonixError, match="too few"):
        from_anchors([], [])


def test_events_that_share_nothing_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ClisonixError, match="same events"):
        from_anchors(np.arange(12.0), rng.uniform(0, 1000, 12))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1e5, 1e5))
def test_events_are_paired_though_both_streams_missed_some(seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    truth = np.cumsum(rng.uniform(0.5, 3.0, 25))
    one, two = np.arange(25) % 7 != 3, np.arange(25) % 6 != 1
    a, b = pair_events(truth[one], offset + truth[two], within_s=0.02)
    both = np.flatnonzero(one & two)
    assert np.array_equal(np.flatnonzero(one)[a], both)
    assert np.array_equal(np.flatnonzero(two)[b], both)


def test_equally_spaced_events_cannot_be_paired() -> None:
    with pytest.raises(ClisonixError, match="equally well"):
        pair_events(np.arange(10.0), np.arange(3.0, 10.0))


@pytest.mark.parametrize("ppm", [-3000.0, 20.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_correlation_finds_drift_without_any_event_named(ppm: float, sign: float) -> None:
    rng = np.random.default_rng(3)
    fine = np.arange(-5, 70, 1e-3)
    signal = np.convolve(rng.normal(size=len(fine)), np.hanning(301), "same")
    own, fabric = np.arange(0, 60, 1 / 64), np.arange(0, 60, 1 / 250)
    truth = 0.4 + own * (1 + 1e-6 * ppm)
    one = sign * np.interp(truth, fine, signal) + rng.normal(0, 0.5, len(own))
    two = 3.0 + np.interp(fabric, fine, signal)
    clock = blind(one, own, two, fabric)
    assert np.max(np.abs(clock(own) - truth)) < 2e-3
    assert clock.segments[0].rate_ppm == pytest.approx(ppm, abs=40)


def test_channels_that_saw_different_things_are_refused() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(0, 40, 0.01)
    with pytest.raises(ClisonixError, match="windows"):
        blind(rng.normal(size=4000), times, rng.normal(size=4000), times)
    with pytest.raises(ClisonixError, match="windows"):
        blind(rng.normal(size=4000), times, rng.normal(size=4000), times + 1000)
