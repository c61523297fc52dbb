"""Clocks from device stamps, offline and causal, and from stamps of samples alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radio import jittered, packets

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks import CausalClock, from_device, from_samples


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(-200, 200), st.floats(-1e6, 1e9))
def test_device_stamps_give_back_drift_whatever_the_order_of_packets(seed: int, ppm: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    device, arrival, delay = packets(rng, seconds=120, ppm=ppm, offset_s=offset)
    assert np.any(np.diff(device) < 0)
    clock = from_device(device, arrival)
    error = clock(device) - offset - device * (1 + 1e-6 * ppm)
    # The delays' mean is in the offset; a robust mean of skewed delays lies a little below it.
    assert 0 < np.mean(error) < delay + 1e-3
    assert np.ptp(error) < 4e-3


def test_a_device_that_starts_anew_has_two_epochs() -> None:
    rng = np.random.default_rng(3)
    first = packets(rng, seconds=30, offset_s=5000.0)
    second = packets(rng, seconds=40, offset_s=5060.0)
    device = np.concatenate([first.device_s, second.device_s])
    arrival = np.concatenate([first.arrival_s, second.arrival_s])
    clock = from_device(device, arrival)
    assert len(clock.segments) == 2
    assert np.max(np.abs(clock(device) - arrival)) < 0.2


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000), st.floats(-100, 100), st.floats(0, 1e9))
def test_the_causal_clock_comes_within_milliseconds_and_stays(seed: int, ppm: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    device, arrival, _ = packets(rng, seconds=90, ppm=ppm, offset_s=offset)
    clock = CausalClock()
    mapped = np.array([clock.push(*p) for p in zip(device.tolist(), arrival.tolist(), strict=True)])
    truth = from_device(device, arrival)(device)
    settled = device > 10
    assert np.std((mapped - truth)[settled]) < 2e-3
    assert np.max(np.abs(mapped - truth)[settled]) < 6e-3
    assert clock.clock()([45.0])[0] == pytest.approx(float(from_device(device, arrival)([45.0])[0]), abs=4e-3)


def test_the_causal_clock_knows_only_the_past() -> None:
    rng = np.random.default_rng(0)
    device, arrival, _ = packets(rng, seconds=20)
    one, two = CausalClock(), CausalClock()
    half = len(device) // 2
    first = [one.push(*p) for p in zip(device.tolist()[:half], arrival.tolist()[:half], strict=True)]
    other = arrival.copy()
    other[half:] += 0.4
    second = [two.push(*p) for p in zip(device.tolist(), other.tolist(), strict=True)]
    assert first == second[:half]


def test_a_radio_held_up_for_seconds_does_not_move_the_causal_clock() -> None:
    rng = np.random.default_rng(1)
    device, arrival, _ = packets(rng, seconds=40)
    held = (arrival > 20) & (arrival < 23)
    arrival = np.where(held, 23.0 + 1e-4 * np.arange(len(arrival)) / len(arrival), arrival)
    clock = CausalClock()
    mapped = np.array([clock.push(*p) for p in zip(device.tolist(), arrival.tolist(), strict=True)])
    assert np.max(np.abs(mapped - device - 0.01)[device > 10]) < 0.015
    assert len(clock.clock().segments) == 1


def test_the_causal_clock_sees_a_device_start_anew() -> None:
    rng = np.random.default_rng(2)
    first = packets(rng, seconds=20, offset_s=1000.0)
    second = packets(rng, seconds=20, offset_s=1030.0)
    clock = CausalClock()
    pairs = [*zip(first.device_s.tolist(), first.arrival_s.tolist(), strict=True)]
    pairs += [*zip(second.device_s.tolist(), second.arrival_s.tolist(), strict=True)]
    mapped = np.array([clock.push(*p) for p in pairs])
    arrival = np.array([p[1] for p in pairs])
    assert len(clock.clock().segments) == 2
    assert np.max(np.abs(mapped - arrival)) < 0.2


def test_hours_of_packets_do_not_wear_the_sums_out() -> None:
    clock = CausalClock()
    rng = np.random.default_rng(4)
    device = 1e6 + np.arange(0, 12_000) * 1.0
    arrival = device * (1 + 2e-5) + rng.exponential(0.01, len(device))
    mapped = [clock.push(*p) for p in zip(device.tolist(), arrival.tolist(), strict=True)]
    assert abs(mapped[-1] - device[-1] * (1 + 2e-5) - 0.01) < 0.01
    assert clock.uncertainty_s < 0.01


def test_packets_that_are_no_use_say_so() -> None:
    with pytest.raises(ClisonixError, match="at least 3"):
        from_device([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ClisonixError, match="do not advance"):
        from_device([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])
    with pytest.raises(ClisonixError, match="finite"):
        CausalClock().push(float("nan"), 1.0)
    with pytest.raises(ClisonixError, match="no packet"):
        CausalClock().clock()
    with pytest.raises(ClisonixError, match="window_s"):
        CausalClock(window_s=0)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ppm=st.floats(-200, 200),
    setting=st.sampled_from([(250.0, 375, 12), (64.0, 320, 4), (1000.0, 1500, 100), (256.0, 200, 12)]),
    where=st.floats(0.25, 0.75),
)
def test_a_loss_is_found_to_the_sample_and_leaves_no_error(
    seed: int, ppm: float, setting: tuple[float, int, int], where: float
) -> None:
    rate, lost, packet = setting
    rng = np.random.default_rng(seed)
    truth = np.arange(int(80 * rate)) / rate * (1 + 1e-6 * ppm)
    stamps = jittered(rng, truth, packet=packet, sd_s=0.015)
    cut = int(where * len(truth)) // packet * packet
    kept = np.concatenate([np.arange(cut), np.arange(cut + lost, len(truth))])
    clock = from_samples(stamps[kept], rate)
    assert len(clock.segments) == 2
    assert abs(clock.lost - lost) <= max(1, 0.006 * rate)
    assert round(clock.segments[1].first_s * rate) == cut
    error = np.abs(clock(np.arange(len(kept))) - truth[kept])
    assert error.max() < 6e-3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(-200, 200))
def test_no_loss_is_made_up_from_bursts_and_stalls(seed: int, ppm: float) -> None:
    rng = np.random.default_rng(seed)
    truth = np.arange(15_000) / 250 * (1 + 1e-6 * ppm)
    stamps = jittered(rng, truth, packet=12, sd_s=0.02)
    stalled = (truth > 30) & (truth < 32)
    stamps[stalled] = np.maximum(stamps[stalled], 32.0 + 1e-6 * np.arange(np.count_nonzero(stalled)))
    clock = from_samples(stamps, 250)
    assert clock.lost == 0
    assert len(clock.segments) == 1


def test_several_losses_of_single_packets_in_clean_stamps_share_one_line() -> None:
    truth = np.arange(20_000) / 256
    rng = np.random.default_rng(0)
    gone = np.zeros(len(truth), np.bool_)
    for at in (2004, 6000, 6912, 15_000):
        gone[at : at + 12] = True
    clock = from_samples((truth + rng.normal(0, 1e-4, len(truth)))[~gone], 256)
    assert [s.lost for s in clock.segments] == [0, 12, 12, 12, 12]
    assert np.max(np.abs(clock(np.arange(np.count_nonzero(~gone))) - truth[~gone])) < 2e-5


@pytest.mark.parametrize("modulus", [16, 256, 65536])
def test_a_counter_tells_losses_that_stamps_hide(modulus: int) -> None:
    rng = np.random.default_rng(7)
    truth = np.arange(20_000) / 250
    stamps = jittered(rng, truth, packet=12, sd_s=0.03)
    gone = np.zeros(len(truth), np.bool_)
    gone[3000] = gone[9000:9005] = True
    gone[14_000:14_375] = True
    counter = np.arange(len(truth)) % modulus
    clock = from_samples(stamps[~gone], 250, counter=counter[~gone], modulus=modulus)
    assert [s.lost for s in clock.segments] == [0, 1, 5, 375]
    assert np.max(np.abs(clock(np.arange(np.count_nonzero(~gone))) - truth[~gone])) < 4e-3


def test_losses_close_together_do_not_feign_rounds_of_a_small_counter() -> None:
    rng = np.random.default_rng(8)
    truth = np.arange(30_000) / 1000
    stamps = jittered(rng, truth, packet=100, sd_s=0.04)
    gone = np.zeros(len(truth), np.bool_)
    gone[9000:9005] = gone[9007:9010] = gone[20_000] = True
    counter = np.arange(len(truth)) % 16
    clock = from_samples(stamps[~gone], 1000, counter=counter[~gone])
    assert [s.lost for s in clock.segments] == [0, 5, 3, 1]


def test_a_clock_set_back_starts_a_segment_with_a_rate_of_its_own() -> None:
    first, second = 1e5 + np.arange(3000) / 100.0, np.arange(4000) / 100.0 * 1.001
    clock = from_samples(np.concatenate([first, second]), 100)
    assert len(clock.segments) == 2
    assert clock.segments[1].rate_ppm == pytest.approx(1000, abs=1)
    assert np.max(np.abs(clock(np.arange(7000)) - np.concatenate([first, second]))) < 1e-6


def test_the_stated_uncertainty_of_samples_covers_the_truth() -> None:
    rng = np.random.default_rng(11)
    inside = []
    for _ in range(60):
        truth = np.arange(10_000) / 250
        stamps = jittered(rng, truth, packet=12, sd_s=0.02)
        kept = np.concatenate([np.arange(4800), np.arange(5175, 10_000)])
        clock = from_samples(stamps[kept], 250)
        at = rng.integers(0, len(kept), 20)
        inside.append(np.mean(np.abs(clock(at) - truth[kept][at]) <= clock.uncertainty(at)))
    assert np.mean(inside) >= 0.9


def test_stamps_that_are_no_use_say_so() -> None:
    with pytest.raises(ClisonixError, match="at least 3"):
        from_samples([1.0, 2.0], 1)
    with pytest.raises(ClisonixError, match="do not advance"):
        from_samples([1.0] * 10, 1)
    with pytest.raises(ClisonixError, match="advance at 10 Hz"):
        from_samples(np.arange(100) / 10, 100)
    with pytest.raises(ClisonixError, match="right channel"):
        from_samples(np.arange(100) / 10, 10, counter=np.zeros(100))
    with pytest.raises(ClisonixError, match="whole numbers"):
        from_samples(np.arange(100) / 10, 10, counter=np.linspace(0, 1, 100))
