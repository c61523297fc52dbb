"""Timestamps become a grid without inventing or losing samples."""

from __future__ import annotations

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import to_grid


def bursts(n: int, rate_hz: float, packet: int, rng: np.random.Generator) -> np.ndarray:
    """Arrival times of a steady device over a radio that delivers packets late."""
    steady = np.arange(n) / rate_hz
    late = np.repeat(rng.exponential(0.02, n // packet + 1), packet)[:n]
    return np.maximum.accumulate(steady + late)


def test_jitter_is_removed() -> None:
    rng = np.random.default_rng(0)
    times = bursts(5000, 256.0, 12, rng)
    found = to_grid(times, np.arange(5000.0)[:, None], rate_hz=256.0)
    assert found.segments == 1
    steady = np.arange(5000) / 256.0
    # The mean delay cannot be known from arrivals; what remains must be far below their jitter.
    assert np.std(times - steady) > 0.015
    assert np.std(found.times_s - steady) < 0.003


def test_every_sample_is_on_the_grid_in_its_order() -> None:
    times = np.arange(1000) / 100.0
    found = to_grid(times, np.arange(1000.0)[:, None], rate_hz=100.0)
    assert found.samples.shape == (1, 1000)
    assert (found.samples[0] == np.arange(1000)).all()
    assert found.start_s == pytest.approx(0.0, abs=1e-9)


def test_a_gap_stays_empty_and_its_length_is_kept() -> None:
    times = np.r_[np.arange(500), np.arange(700, 1200)] / 100.0
    found = to_grid(times, np.ones((1000, 2)), rate_hz=100.0)
    assert found.segments == 2
    assert found.samples.shape == (2, 1200)
    empty = np.isnan(found.samples).all(axis=0)
    assert empty[500:700].all()
    assert not empty[:500].any()
    assert not empty[700:].any()


def test_a_drifting_device_keeps_its_own_times() -> None:
    times = np.arange(100_000) / 256.5
    found = to_grid(times, np.zeros((100_000, 1)), rate_hz=256.0)
    assert np.abs(found.times_s - times).max() < 1e-6
    cells = found.samples.shape[1]
    assert cells == pytest.approx(times[-1] * 256, abs=2)


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (np.r_[np.arange(100), np.arange(100)] / 10.0, "jump backwards"),
        (np.r_[0.0, np.nan, 0.2], "not finite"),
        (np.array([]), "no samples"),
        (np.arange(1000) * 1000 / 100.0, "check the unit"),
        (np.arange(1000) / 10.0, "advance at 10 Hz but 100 Hz"),
    ],
)
def test_bad_times_are_one_sentence(times: np.ndarray, sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        to_grid(times, np.zeros((len(times), 1)), rate_hz=100.0)
