"""Intervals from one run: epochs that drift together, and few test samples that two runs judge differently."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from clisonix.errors import ClisonixError
from clisonix.meter.comparing.intervals import Z95, t_above, t_quantile
from clisonix.meter.comparing.proportions import independent_difference, paired_difference
from clisonix.meter.comparing.serial_correlation import MOST_ALIKE, resemblance, variance_of_mean
from clisonix.meter.comparing.within_run import within_series


def autoregression(step: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal(shape)
    for i in range(1, shape[1]):
        values[:, i] = step * values[:, i - 1] + math.sqrt(1 - step * step) * values[:, i]
    return values


def coverage(step: float, epochs: int, runs: int = 600) -> float:
    rng = np.random.default_rng(epochs)
    a, b = (1 + 0.05 * autoregression(step, (runs, epochs), rng) for _ in range(2))
    held = 0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        low, high = within_series([x], [y], sum(x), sum(y)).interval()
        held += low <= 0 <= high
    return held / runs


@pytest.mark.parametrize(("step", "epochs", "least"), [(0, 5, 0.94), (0, 20, 0.93), (0.3, 8, 0.9), (0.6, 20, 0.91)])
def test_the_interval_holds_the_truth_though_epochs_resemble_each_other(
    step: float, epochs: int, least: float
) -> None:
    assert coverage(step, epochs) >= least


def test_independent_values_have_the_textbook_variance() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0]
    variance, freedom = variance_of_mean(values, 0.0)
    assert variance == pytest.approx(stats.sem(values) ** 2)
    assert freedom == 5


@given(st.floats(0, MOST_ALIKE), st.floats(0, MOST_ALIKE))
def test_more_resemblance_never_narrows(one: float, other: float) -> None:
    values = list(np.random.default_rng(0).normal(10, 1, 12))
    low, high = sorted((one, other))
    (variance_low, freedom_low), (variance_high, freedom_high) = (variance_of_mean(values, x) for x in (low, high))
    half = [
        t_quantile(0.975, f) * math.sqrt(v) for v, f in ((variance_low, freedom_low), (variance_high, freedom_high))
    ]
    assert half[0] <= half[1] * (1 + 1e-9)


def test_resemblance_is_estimated_without_much_bias() -> None:
    rng = np.random.default_rng(5)
    for step in (0.0, 0.4, 0.7):
        found = [resemblance([row.tolist()]) for row in autoregression(step, (400, 60), rng)]
        assert np.mean(found) == pytest.approx(step, abs=0.07)


def test_resemblance_ignores_scale_and_constant_series() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(5, 1, 30).tolist(), rng.normal(5, 1, 20).tolist()
    assert resemblance([a, b]) == pytest.approx(resemblance([[1000 * x for x in a], b]))
    assert resemblance([[3.0] * 8]) == 0.0
    assert resemblance([[0.1 + 0.2] * 4 + [0.3] * 4]) == 0.0  # equal up to rounding
    assert resemblance([]) == 0.0


def test_what_was_not_seen_to_vary_widens_in_proportion() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(1, 0.05, 12).tolist(), rng.normal(1, 0.05, 12).tolist()
    whole = within_series([a], [b], sum(a), sum(b))
    partly = within_series([a], [b], 2 * sum(a), 2 * sum(b))
    assert partly.effect == pytest.approx(whole.effect)
    assert partly.error == pytest.approx(whole.error / math.sqrt(2))  # twice the length, the same variance per second


def restricted_score(gained: int, lost: int, n: int, delta: float) -> float:
    """Tango's score with the nuisance parameter found by maximising the likelihood numerically."""

    def minus_log_likelihood(share: float) -> float:
        cells = ((gained, share + delta), (lost, share), (n - gained - lost, 1 - 2 * share - delta))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    best = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    )
    return (gained - lost - n * delta) / math.sqrt(n * (2 * best.x + delta - delta * delta))


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (1, 0, 44), (20, 20, 257), (3, 7, 100), (5, 1, 2000)])
def test_the_ends_of_the_paired_interval_are_where_the_score_is_critical(gained: int, lost: int, n: int) -> None:
    centre, low, high = paired_difference(gained, lost, n)
    assert centre == pytest.approx((gained - lost) / n)
    assert restricted_score(gained, lost, n, low) == pytest.approx(Z95, abs=2e-4)
    assert restricted_score(gained, lost, n, high) == pytest.approx(-Z95, abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_paired_interval_is_symmetric_and_holds_the_estimate(counts: tuple[int, int, int]) -> None:
    gained, lost, n = counts[0], min(counts[1], counts[2] - counts[0]), counts[2]
    centre, low, high = paired_difference(gained, lost, n)
    back = paired_difference(lost, gained, n)
    assert -1 <= low <= centre <= high <= 1
    assert high > low
    assert back == pytest.approx((-centre, -high, -low), abs=1e-9)


def test_the_paired_interval_covers_where_resampling_does_not() -> None:
    rng = np.random.default_rng(0)
    n, p_gained, p_lost = 200, 0.02, 0.005
    draws = rng.multinomial(n, [p_gained, p_lost, 1 - p_gained - p_lost], 2000)
    found = [paired_difference(gained, lost, n) for gained, lost, _ in draws.tolist()]
    assert sum(low <= p_gained - p_lost <= high for _, low, high in found) / 2000 > 0.93


@pytest.mark.parametrize(("x", "n", "y", "m"), [(10, 100, 20, 100), (0, 50, 3, 40), (50, 50, 50, 50)])
def test_newcombes_interval_is_scipys_wilson_intervals_joined(x: int, n: int, y: int, m: int) -> None:
    a, b = (stats.binomtest(k, total).proportion_ci(method="wilson") for k, total in ((x, n), (y, m)))
    p, q = x / n, y / m
    expected = (q - p - math.hypot(q - b.low, a.high - p), q - p + math.hypot(b.high - q, p - a.low))
    assert independent_difference(x, n, y, m)[1:] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("counts", [(1, 1, 0), (-1, 0, 5), (3, 3, 5)])
def test_counts_that_do_not_fit_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ClisonixError, match="gained"):
        paired_difference(*counts)


@pytest.mark.parametrize("freedom", [0.7, 1, 2.5, 9, 300])
@pytest.mark.parametrize("t", [-40.0, -1.5, 0.0, 0.3, 2.0, 60.0])
def test_tails_of_t_are_scipys(t: float, freedom: float) -> None:
    assert t_above(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-10)
