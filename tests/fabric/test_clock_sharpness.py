"""Events by their whole shape, losses by the earliest samples, and a young causal clock that is not too sure."""

from __future__ import annotations

import numpy as np
import pytest
from radio import packets

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks import CausalClock, from_anchors, from_device, from_samples, match_events
from clisonix.fabric.clocks.steps import steps_by_earliest, steps_by_mean

FloatArray = np.ndarray


def _flashes(seed: int) -> tuple[FloatArray, ...]:
    """A screen seen at 1000 Hz, and at 64 Hz through a mean of three samples on a clock that runs 1000 ppm slow."""
    rng = np.random.default_rng(seed)
    events = 1.0 + 2.0 * np.arange(10) + rng.uniform(0, 0.5, 10)
    quick = np.arange(0, 23, 0.001)

    def screen(times: FloatArray) -> FloatArray:
        return np.sum(np.tanh((times[:, None] - events) / 0.006) / 2 * (-1.0) ** np.arange(10), axis=1)

    slow = np.arange(0.2, 22, 1 / 64)
    taken = np.mean([screen(slow - k / 64) for k in range(3)], axis=0)
    own = (slow - 5.0) / (1 - 1e-3)
    return own, taken + 1e-3 * rng.standard_normal(len(slow)), quick, screen(quick), events


@pytest.mark.parametrize("seed", range(3))
def test_matched_shapes_know_the_rate_better_than_crossings(seed: int) -> None:
    own, taken, quick, seen, events = _flashes(seed)
    rough = (events - 5.0 + 1 / 64) / (1 - 1e-3) + np.random.default_rng(seed).uniform(-0.004, 0.004, 10)
    ends = [0, 1, 8, 9]
    matched = match_events(taken, own, seen, quick, rough[ends], events[ends])
    error_ppm = from_anchors(rough[ends], matched).segments[0].rate_ppm + 1000
    assert abs(error_ppm) < 10
    # The mean offset is not what shapes can tell.
    assert np.mean(matched) == pytest.approx(np.mean(events[ends]), abs=1e-9)


def test_too_few_events_or_samples_are_refused() -> None:
    own, taken, quick, seen, events = _flashes(0)
    with pytest.raises(ClisonixError, match="at least 3"):
        match_events(taken, own, seen, quick, events[:2], events[:2])
    with pytest.raises(ClisonixError, match="around_s"):
        match_events(taken, own, seen, quick, events, events, around_s=0.01)


def _held_up(rng: np.random.Generator, rate_hz: float, seconds: float) -> tuple[FloatArray, FloatArray]:
    """True times, and stamps of samples that come when a packet with a delay of its own does."""
    truth = np.arange(round(seconds * rate_hz)) / rate_hz
    packet = np.arange(len(truth)) // 12
    return truth, (packet + 1) * 12 / rate_hz + rng.exponential(0.02, packet[-1] + 1)[packet]


@pytest.mark.parametrize("where", [0.15, 0.5, 0.85])
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_is_known_to_the_sample_wherever_it_is(where: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, stamps = _held_up(rng, 128.0, 80.0)
    cut, lost = int(where * len(truth)), int(rng.integers(100, 600))
    kept = np.concatenate([np.arange(cut), np.arange(cut + lost, len(truth))])
    clock = from_samples(stamps[kept], 128.0)
    assert [s.lost for s in clock.segments] == [0, lost]
    # A rate that delays feign is no error of the loss.
    error = clock(np.arange(len(kept))) - truth[kept]
    left = error - np.polyval(np.polyfit(truth[kept], error, 1), truth[kept])
    assert np.abs(left).max() < 1e-6


def test_the_earliest_samples_tell_a_step_better_than_the_mean_does() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(30):
        _, stamps = _held_up(rng, 128.0, 60.0)
        stamps[4000:] += 1.0
        at = np.array([4000])
        mean, early = steps_by_mean(stamps, at), steps_by_earliest(stamps, at, 1 / 128)
        assert early is not None
        found.append([mean.sizes_s[0] - 1, early.sizes_s[0] - 1, early.sds_s[0]])
    by_mean, by_earliest, stated = np.array(found).T
    assert np.std(by_earliest) < np.std(by_mean) / 2
    assert 0.5 < np.std(by_earliest) / np.mean(stated) < 1.5


def test_the_causal_clock_is_not_too_sure_in_its_first_seconds() -> None:
    inside = []
    for seed in range(12):
        sent = packets(np.random.default_rng(seed), seconds=100.0, delay_s=0.02, burst_s=0.3, bursts=0.1)
        # What the whole recording says: of delays that lean to one side, the middle is a matter of definition.
        whole, clock = from_device(sent.device_s, sent.arrival_s), CausalClock()
        early = np.flatnonzero(sent.device_s < 10)
        for i in early.tolist():
            mapped = clock.push(float(sent.device_s[i]), float(sent.arrival_s[i]))
            error = mapped - float(whole(sent.device_s[i : i + 1])[0])
            inside.append(abs(error) <= 2 * clock.uncertainty_s)
    assert np.mean(inside) > 0.95
