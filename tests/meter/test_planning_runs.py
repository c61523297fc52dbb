from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from clisonix.meter.comparing.equivalence import equivalence, needed
from clisonix.meter.comparing.group_difference import Contrast, contrast
from clisonix.meter.comparing.metrics import Measured
from clisonix.meter.comparing.planning import (
    MOST_RUNS,
    detectable,
    power,
    runs_to_agree,
    runs_to_differ,
    typical_freedom,
)


def pairs(effect: float, spread: float, n: int) -> Contrast:
    return Contrast(effect, spread / math.sqrt(n), n - 1.0, spread, n, n, True)


def measured(a: list[float], b: list[float], relative: bool = True) -> Measured:
    values = [[math.log(x) for x in side] if relative else side for side in (a, b)]
    found = contrast(values[0], values[1], list(range(len(a))), list(range(len(b))))
    name = ("energy", "J") if relative else ("quality", "points")
    return Measured(*name, relative, list(a), list(b), found, None, "", "", "")


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("distance", [0.3, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("level", [0.01, 0.05])
def test_power_is_the_noncentral_ts(freedom: int, distance: float, level: float) -> None:
    theirs = stats.nct.sf(stats.t.ppf(1 - level, freedom), freedom, distance)
    assert power(distance, 1.0, freedom, level) == pytest.approx(theirs, abs=2e-3)


@pytest.mark.parametrize("freedom", [1.0, 1.3, 4.0, 50.0])
def test_the_detectable_effect_is_detected_that_often(freedom: float) -> None:
    found = Contrast(0.0, 0.02, freedom, 0.05, 3, 3, True)
    assert power(detectable(found, 0.04, 0.85), 0.02, freedom, 0.04) == pytest.approx(0.85, abs=1e-6)


@pytest.mark.parametrize(("effect", "spread"), [(0.02, 0.02), (0.01, 0.02), (-0.03, 0.01), (0.05, 0.1)])
def test_the_planned_number_of_pairs_reaches_the_power_and_one_less_does_not(effect: float, spread: float) -> None:
    n = runs_to_differ(pairs(effect, spread, 3))
    assert n is not None

    def reached(k: int) -> float:
        shift = abs(effect) / spread * math.sqrt(k)
        return float(stats.nct.sf(stats.t.ppf(0.975, k - 1), k - 1, shift))

    assert reached(n) >= 0.8 - 2e-3
    assert n == 2 or reached(n - 1) < 0.8 + 2e-3


@pytest.mark.parametrize("n", [3, 5, 12])
def test_welchs_degrees_of_freedom_are_expected_a_little_too_low(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal((20_000, n)).var(axis=1, ddof=1) for _ in range(2))
    mean = ((a + b) ** 2 / ((a * a + b * b) / (n - 1))).mean()
    assert mean * 0.93 < typical_freedom(n, paired=False) < mean * 1.01
    assert typical_freedom(n, paired=True) == n - 1


def test_the_planned_experiment_succeeds_in_simulation() -> None:
    n = runs_to_differ(pairs(0.02, 0.02, 3))
    assert n is not None
    rng = np.random.default_rng(0)
    steps = rng.normal(0.02, 0.02, (4000, n))
    half = stats.t.ppf(0.975, n - 1) * steps.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.78 < (steps.mean(axis=1) - half > 0).mean() < 0.9


def test_equivalence_is_planned_too() -> None:
    n = runs_to_agree(pairs(0.001, 0.01, 3), -0.02, 0.02)
    assert n is not None
    rng = np.random.default_rng(0)
    steps = rng.normal(0.001, 0.01, (4000, n))
    half = stats.t.ppf(0.95, n - 1) * steps.std(axis=1, ddof=1) / math.sqrt(n)
    mean = steps.mean(axis=1)
    assert 0.78 < ((mean - half > -0.02) & (mean + half < 0.02)).mean() < 0.95


def test_a_difference_that_nobody_can_show_needs_an_unknown_number() -> None:
    assert runs_to_differ(pairs(1e-9, 0.1, 3)) is None
    assert runs_to_agree(pairs(0.0199, 1.0, 3), -0.02, 0.02) is None
    assert runs_to_agree(pairs(0.03, 0.01, 3), -0.02, 0.02) is None
    assert f"more than {MOST_RUNS}" in needed(measured([100, 100, 100], [101, 99, 100.0001]), None).text


def test_the_equivalence_test_is_two_one_sided_tests() -> None:
    rng = np.random.default_rng(3)
    steps = rng.normal(0.2, 0.4, 8)
    found = equivalence(measured([50.0] * 8, list(50 + steps), relative=False), 0.5)
    assert found is not None
    theirs = max(
        stats.ttest_1samp(steps, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(steps, 0.5, alternative="less").pvalue,
    )
    assert found.p == pytest.approx(theirs)
    interval = stats.ttest_1samp(steps, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_three_verdicts_of_equivalence() -> None:
    same, apart, unsure = [100.1, 99.9, 100.0], [120.0, 121.0, 119.0], [90.0, 112.0, 100.0]
    verdicts = [equivalence(measured([100.0] * 3, b), 0.02) for b in (same, apart, unsure)]
    assert [v.verdict for v in verdicts if v] == ["equivalent", "different", "undecided"]
    assert needed(measured([100.0] * 3, same), 0.02).more == 0
    assert needed(measured([100.0] * 3, apart), 0.02).more == 0
    assert (needed(measured([100.0] * 3, unsure), 0.02).more or 0) > 3


def test_a_ratio_margin_is_symmetric_in_logarithms() -> None:
    up, down = measured([100.0] * 4, [101, 102, 101.5, 101.2]), measured([101, 102, 101.5, 101.2], [100.0] * 4)
    found = [equivalence(side, 0.02) for side in (up, down)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].p == pytest.approx(found[1].p)


def test_equal_values_of_coarse_resolution_are_not_certain() -> None:
    coarse = contrast([50.0, 50.0], [50.0, 50.0], [1, 2], [1, 2], resolution=0.5)
    exact = contrast([50.0, 50.0], [50.0, 50.0], [1, 2], [1, 2])
    assert coarse is not None
    assert exact is not None
    assert coarse.interval()[1] > 0.5
    assert exact.interval() == (0.0, 0.0)
