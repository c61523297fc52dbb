from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clisonix.errors import ClisonixError
from clisonix.meter import mean_interval, t_quantile, welch_interval, wilson


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
def test_welch_interval_is_scipys(n_a: int, n_b: int) -> None:
    rng = np.random.default_rng(n_a)
    a, b = rng.normal(3, 2, n_a), rng.normal(5, 0.3, n_b)
    theirs = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert welch_interval(list(a), list(b)) == pytest.approx((b.mean() - a.mean(), theirs.low, theirs.high))


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ClisonixError):
        mean_interval([1.0])
    with pytest.raises(ClisonixError):
        welch_interval([1.0], [1.0, 2.0])


def test_no_spread_gives_an_interval_of_no_width() -> None:
    assert welch_interval([2.0, 2.0], [3.0, 3.0]) == (1.0, 1.0, 1.0)
