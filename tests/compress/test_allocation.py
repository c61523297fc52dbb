"""A budget is shared out nearly as well as trying every choice would, and more of it never does harm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.compress.allocate import Curve, OutOfReachError, allocate

points = st.lists(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=7), min_size=1, max_size=4
)


def made(layers: Any) -> list[Curve]:
    return [
        Curve.of(str(i), [float(cost) for cost, _ in layer], [error for _, error in layer])
        for i, layer in enumerate(layers)
    ]


def cost(curves: Sequence[Curve], steps: Mapping[str, int]) -> float:
    return sum(curve.costs[steps[curve.name]] for curve in curves)


def error(curves: Sequence[Curve], steps: Mapping[str, int]) -> float:
    return sum(curve.errors[steps[curve.name]] for curve in curves)


def brute_force(curves: Sequence[Curve], budget: float) -> float | None:
    """The least error of all choices within the budget."""
    choices = itertools.product(*(range(len(curve.costs)) for curve in curves))
    named = ({curve.name: step for curve, step in zip(curves, steps, strict=True)} for steps in choices)
    return min((error(curves, steps) for steps in named if cost(curves, steps) <= budget), default=None)


def largest_segment(curves: Sequence[Curve]) -> float:
    """The most that one segment of a hull saves: what the Lagrangian may miss."""
    return max((c.errors[a] - c.errors[b] for c in curves for a, b in pairwise(c.hull())), default=0.0)


@settings(max_examples=60, deadline=None)
@given(points, st.floats(0.02, 1.1))
def test_allocation_is_near_the_best_of_all_choices(layers: Any, share: float) -> None:
    curves = made(layers)
    budget = share * sum(max(curve.costs) for curve in curves)
    best = brute_force(curves, budget)
    if best is None:
        with pytest.raises(OutOfReachError) as caught:
            allocate(curves, budget, lambda steps: cost(curves, steps))
        assert caught.value.smallest == sum(curve.costs[0] for curve in curves)
        return
    steps = allocate(curves, budget, lambda steps: cost(curves, steps))
    assert cost(curves, steps) <= budget
    assert best - 1e-9 <= error(curves, steps) <= best + largest_segment(curves) + 1e-9


@settings(max_examples=50, deadline=None)
@given(points, st.floats(0.1, 1.1), st.floats(1.0, 2.0))
def test_more_budget_never_does_harm_by_more_than_a_segment(layers: Any, share: float, more: float) -> None:
    curves = made(layers)
    budget = share * sum(max(curve.costs) for curve in curves)
    if sum(curve.costs[0] for curve in curves) > budget:
        return
    less, most = (
        error(curves, allocate(curves, b, lambda steps: cost(curves, steps))) for b in (budget, more * budget)
    )
    assert most <= less + largest_segment(curves) + 1e-9


@settings(max_examples=50, deadline=None)
@given(points, st.floats(0.1, 1.0))
def test_on_convex_curves_with_equal_steps_the_best_is_found(layers: Any, share: float) -> None:
    """Where every step costs the same and saves less than the one before, the greedy choice is the optimum."""
    curves = []
    for i, layer in enumerate(layers):
        gains = sorted((gain for _, gain in layer), reverse=True)
        errors = [math.fsum(gains[k:]) for k in range(len(gains) + 1)]
        curves.append(Curve.of(str(i), [float(k + 1) for k in range(len(errors))], errors))
    budget = math.ceil(share * sum(max(curve.costs) for curve in curves))
    best = brute_force(curves, budget)
    if best is not None:
        found = allocate(curves, budget, lambda steps: cost(curves, steps))
        assert error(curves, found) == pytest.approx(best, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(points, st.floats(0.3, 1.0), st.integers(0, 3))
def test_the_exact_cost_rules_where_it_differs_from_the_sum(layers: Any, share: float, header: int) -> None:
    curves = made(layers)

    def exact(steps: Mapping[str, int]) -> float:
        return cost(curves, steps) + header * len(set(steps.values()))

    budget = share * sum(max(curve.costs) for curve in curves)
    smallest = exact({curve.name: 0 for curve in curves})
    if smallest > budget:
        return
    assert exact(allocate(curves, budget, exact)) <= budget


def test_a_curve_keeps_only_what_nothing_beats() -> None:
    curve = Curve.of("a", [5.0, 1.0, 3.0, 3.0, 9.0], [0.4, 0.9, 0.5, 0.3, 0.0])
    assert curve.costs == (1.0, 3.0, 9.0)
    assert curve.errors == (0.9, 0.3, 0.0)
    assert curve.places == (1, 3, 4)
