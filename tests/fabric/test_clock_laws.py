"""What a clock is: a piecewise line that says how sure it is, and survives JSON and chaining."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks import Clock, Segment, from_offsets
from clisonix.fabric.clocks.line import agreeing, dependence, huber_line, student

LINE = Segment(0.0, 100.0, 50.0, 3.0, 20.0, 1e-3, 1e-4, 2.0, 30.0, 40)


def clocks() -> st.SearchStrategy[Clock]:
    number = st.floats(-1e4, 1e4)
    rate = st.floats(-300, 300)
    segment = st.builds(lambda offset, ppm: replace(LINE, offset_s=offset, rate_ppm=ppm), offset=number, ppm=rate)
    later = st.builds(
        lambda s, at: replace(s, first_s=100.0 + at, last_s=200.0 + at, reference_s=150.0 + at, lost=7),
        segment,
        st.floats(1, 50),
    )
    return st.builds(
        lambda a, b, hz: Clock((a, *b), rate_hz=hz, method="made"),
        segment,
        st.lists(later, max_size=1),
        st.sampled_from([None, 250.0, 51.2]),
    )


@settings(max_examples=30, deadline=None)
@given(clocks())
def test_json_gives_the_same_clock_back(clock: Clock) -> None:
    again = Clock.from_json(json.loads(clock.dumps()))
    assert again == clock
    times = np.linspace(0, 1e5, 50)
    assert np.array_equal(again(times), clock(times))
    assert np.array_equal(again.uncertainty(times), clock.uncertainty(times))


@settings(max_examples=30, deadline=None)
@given(clocks(), st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-200, 200)), min_size=1, max_size=2))
def test_chaining_is_applying_one_after_the_other(first: Clock, lines: list[tuple[float, float]]) -> None:
    second = Clock(
        tuple(
            replace(LINE, first_s=1e4 * k, last_s=1e4 * k + 50, reference_s=1e4 * k, offset_s=o, rate_ppm=r)
            for k, (o, r) in enumerate(lines)
        )
    )
    own = np.linspace(1, 99, 23) * (first.rate_hz or 1.0)
    chained = first.then(second)
    middle = first(own)
    border = np.abs(middle - 5025.0) > 1.0
    np.testing.assert_allclose(chained(own)[border], second(middle)[border], atol=1e-6)
    assert np.all(chained.uncertainty(own) >= 0.999 * first.uncertainty(own))


def test_uncertainty_grows_away_from_the_measurements_and_with_coverage() -> None:
    clock = Clock((LINE,))
    at = clock.uncertainty([50.0, 100.0, 1000.0])
    assert at[0] < at[1] < at[2]
    assert np.all(clock.uncertainty([50.0], coverage=0.99) > clock.uncertainty([50.0], coverage=0.9))


def test_a_time_between_segments_goes_with_the_nearer_one() -> None:
    clock = Clock((LINE, replace(LINE, first_s=200.0, last_s=300.0, reference_s=250.0, offset_s=-1000.0)))
    assert clock([149.0])[0] > 100
    assert clock([151.0])[0] < -500


def test_times_that_came_twice_are_told_apart_by_order_or_refused() -> None:
    second = replace(LINE, offset_s=1000.0)
    clock = Clock((LINE, second))
    whole = np.concatenate([np.arange(0.0, 100.0), np.arange(0.0, 100.0)])
    mapped = clock(whole)
    assert np.all(np.diff(mapped) > 0)
    with pytest.raises(ClisonixError, match="say which epoch"):
        clock(np.arange(10.0))
    assert np.array_equal(clock(np.arange(10.0), epoch=1), mapped[100:110])
    with pytest.raises(ClisonixError, match="epoch 2"):
        clock([1.0], epoch=2)


@pytest.mark.parametrize(
    "content", [{}, {"schema": 2}, {"schema": 1, "segments": [3]}, {"schema": 1, "segments": []}]
)
def test_json_that_is_no_clock_is_an_error_of_the_user(content: dict[str, object]) -> None:
    with pytest.raises(ClisonixError):
        Clock.from_json({"method": "", "rate_hz": None, **content})


@pytest.mark.parametrize("degrees", [1, 2, 3, 4.5, 10, 100, 1e7])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95, 0.99])
def test_students_quantile_is_scipys(degrees: float, coverage: float) -> None:
    expected = stats.t.ppf((1 + coverage) / 2, degrees)
    assert student(coverage, degrees) == pytest.approx(expected, rel=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-500, 500), st.floats(-1e6, 1e6))
def test_a_line_without_noise_is_found_exactly_whatever_a_fifth_of_outliers(
    seed: int, ppm: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 300, 50))
    y = offset + 1e-6 * ppm * x
    y[rng.choice(50, 10, replace=False)] += rng.uniform(0.5, 5.0, 10)
    line = huber_line(x, y, width=0.0, floor=1e-4)
    assert abs(1e6 * line.slope - ppm) < 2
    assert abs(line.level - offset - 1e-6 * ppm * line.centre) < 2e-4
    kept = agreeing(x, y, 1e-6)
    assert np.count_nonzero(kept) == 40


def test_residuals_that_depend_on_neighbours_are_seen() -> None:
    rng = np.random.default_rng(1)
    alone = rng.normal(size=4096)
    assert dependence(alone)[0] < 3
    shared = np.repeat(rng.normal(size=256), 16)
    assert 10 < dependence(shared)[0] < 40


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-100, 100), st.floats(-1e6, 1e6))
def test_offsets_give_back_drift_with_jitter_and_outliers(seed: int, ppm: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    own = np.arange(0.0, 600.0, 5.0)
    measured = offset + 1e-6 * ppm * own + rng.normal(0, 2e-5, len(own))
    measured[rng.choice(len(own), 12, replace=False)] += 0.05
    clock = from_offsets(own, measured)
    assert len(clock.segments) == 1
    assert np.max(np.abs(clock(own) - own - offset - 1e-6 * ppm * own)) < 1e-4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(7.0, 1e6), st.booleans())
def test_a_reset_makes_two_epochs_and_a_lone_outlier_does_not(seed: int, jump: float, backwards: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = np.arange(0.0, 400.0, 5.0)
    sign = 1.0 if backwards else -1.0
    added = np.where(truth < 200, 0.0, sign * jump)
    own = truth - added
    measured = truth - own + rng.normal(0, 1e-5, len(own))
    measured[10] += 5.0
    clock = from_offsets(own, measured)
    assert len(clock.segments) == 2
    assert np.max(np.abs(clock(own) - truth)) < 1e-4


@pytest.mark.parametrize("count", [1, 2])
def test_few_offsets_give_a_clock_with_a_wide_interval(count: int) -> None:
    clock = from_offsets([10.0, 15.0][:count], [3.0, 3.00001][:count])
    assert clock([12.0])[0] == pytest.approx(15.0, abs=1e-4)
    assert clock.uncertainty([12.0])[0] > 1e-3


def test_too_little_or_broken_measurements_say_so() -> None:
    with pytest.raises(ClisonixError, match="too few"):
        from_offsets([], [])
    with pytest.raises(ClisonixError, match="not finite"):
        from_offsets([1.0, np.nan], [0.0, 0.0])
    with pytest.raises(ClisonixError, match="one length"):
        from_offsets([1.0, 2.0], [0.0])


def test_the_stated_uncertainty_of_offsets_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    own = np.arange(0.0, 200.0, 5.0)
    inside = 0
    for _ in range(300):
        clock = from_offsets(own, 2.0 + 3e-5 * own + rng.normal(0, 2e-4, len(own)))
        at = np.array([rng.uniform(0, 200)])
        inside += bool(abs(clock(at) - at - 2.0 - 3e-5 * at)[0] <= clock.uncertainty(at)[0])
    assert 0.90 <= inside / 300 <= 1.0
