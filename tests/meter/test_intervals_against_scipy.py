from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clisonix.errors import ClisonixError
from clisonix.meter import mean_interval, t_quantile, wilson
from clisonix.meter.comparing.group_difference import contrast


@settings(max_examples=200, deadline=None)
@given(p=st.floats(0.001, 0.999), freedom=st.floats(0.5, 3000))
def test_t_quantile_is_scipys(p: float, freedom: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-8, abs=5e-8)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 1000])
def test_t_quantile_at_the_usual_places(freedom: int) -> None:
    for p in (0.025, 0.5, 0.9, 0.975, 0.995):
        assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("p", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0), (0.5, -1), (float("nan"), 3)])
def test_t_quantile_out_of_range_is_refused(p: float, freedom: float) -> None:
    with pytest.raises(ClisonixError):
        t_quantile(p, freedom)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_is_scipys(n: int, share: float) -> None:
    successes = round(share * n)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_out_of_range_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ClisonixError):
        wilson(successes, n)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_mean_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(list(values)) == pytest.approx((values.mean(), theirs.low, theirs.high))


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 7), (10, 4)])
def test_unpaired_runs_are_compared_as_scipys_welch_test_does(n_a: int, n_b: int) -> None:
    rng = np.random.default_rng(n_a)
    a, b = rng.normal(3, 2, n_a), rng.normal(5, 0.3, n_b)
    found = contrast(list(a), list(b), [None] * n_a, [None] * n_b)
    assert found is not None
    theirs = stats.ttest_ind(b, a, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high))
    assert found.freedom == pytest.approx(theirs.df)
    for margin in (-1.0, 0.0, 2.0):
        greater = stats.ttest_ind(b - margin, a, equal_var=False, alternative="greater").pvalue
        assert found.above(margin) == pytest.approx(greater)
        assert found.below(margin) == pytest.approx(1 - greater)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=8), st.floats(-3, 3))
def test_turning_the_sides_round_turns_everything_round(pairs: list[tuple[float, float]], margin: float) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    seeds = list(range(len(pairs)))
    found, back = contrast(a, b, seeds, seeds), contrast(b, a, seeds, seeds)
    assert found is not None
    assert back is not None
    assert found.turned().interval() == pytest.approx(back.interval(), abs=1e-9)
    assert found.above(margin) == pytest.approx(back.below(-margin), abs=1e-6)


def test_slack_widens_both_ends_and_weakens_both_tests() -> None:
    found = contrast([1.0, 2.0, 3.0], [2.0, 3.5, 4.1], [1, 2, 3], [1, 2, 3])
    assert found is not None
    wide = replace(found, slack_low=0.5, slack_high=0.25)
    assert wide.interval()[0] == pytest.approx(found.interval()[0] - 0.5)
    assert wide.interval()[1] == pytest.approx(found.interval()[1] + 0.25)
    assert wide.above(0.0) == pytest.approx(found.above(0.5))
    assert wide.below(2.0) == pytest.approx(found.below(1.75))


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ClisonixError):
        mean_interval([1.0])
    assert contrast([1.0], [1.0, 2.0], [1], [2, 3]) is None


def test_no_spread_gives_an_interval_of_no_width() -> None:
    found = contrast([2.0, 2.0], [3.0, 3.0], [None, None], [None, None])
    assert found is not None
    assert found.interval() == (1.0, 1.0)
    assert (found.above(0.5), found.above(1.5)) == (0.0, 1.0)
