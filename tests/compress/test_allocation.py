"""Bytes are shared out nearly as well as trying every choice would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.compress.allocate import Curve, allocate
from clisonix.errors import ClisonixError

curves = st.lists(
    st.tuples(
        st.integers(2, 12),
        st.integers(2, 12),
        st.lists(st.floats(0, 1), min_size=12, max_size=12),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(curves, st.floats(0.05, 1.1))
def test_allocation_is_near_the_best_of_all_choices(layers: Any, share: float) -> None:
    """Against brute force: within the budget, and no worse than the best by more than one hull segment."""
    made = []
    for index, (m, n, energies) in enumerate(layers):
        energies = sorted(energies, reverse=True)[: min(m, n)]
        total = sum(energies) or 1.0
        errors = [sum(energies[r:]) / total for r in range(len(energies) + 1)]
        made.append(Curve(str(index), 3, 4 * (m + n), 4 * m * n, errors))
    made = [curve for curve in made if curve.ranks >= 1]
    budget = int(share * sum(curve.dense for curve in made))

    def size(ranks: Any) -> int:
        return sum(c.cost(ranks[c.name]) if c.name in ranks else c.dense for c in made)

    def error(ranks: Any) -> float:
        return sum(c.error(ranks[c.name]) for c in made if c.name in ranks)

    choices: list[dict[str, int]] = [{}]
    for curve in made:
        choices = [
            {**choice, **({curve.name: rank} if rank else {})}
            for choice in choices
            for rank in range(curve.ranks + 1)
        ]
    fitting = [error(choice) for choice in choices if size(choice) <= budget]
    if not fitting:
        with pytest.raises(ClisonixError, match="out of reach"):
            allocate(made, budget, size)
        return
    ranks = allocate(made, budget, size)
    assert size(ranks) <= budget
    jumps = [c.error(a) - c.error(b) for c in made for a, b in zip(c.hull(), c.hull()[1:], strict=False)]
    assert error(ranks) <= min(fitting) + max(jumps, default=0) + 1e-9
