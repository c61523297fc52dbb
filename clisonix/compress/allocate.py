"""Sharing out a budget: which of its options each weight gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from clisonix.errors import ClisonixError

# A part of all that could be lost below which an error is rounding, not something that a budget could buy.
_NOISE = 1e-13
_FILLS = 400

Choice = Mapping[str, int]


@dataclass(frozen=True)
class Curve:
    """What a budget buys in one weight: steps of rising cost and falling error.

    Attributes:
        name: of the weight.
        costs: rising strictly.
        errors: falling strictly.
        places: of each step, a number that tells the caller which option it is.
    """

    name: str
    costs: tuple[float, ...]
    errors: tuple[float, ...]
    places: tuple[int, ...]

    @staticmethod
    def of(name: str, costs: Sequence[float], errors: Sequence[float]) -> Curve:
        """The curve through those points that no other point beats in both cost and error."""
        order = sorted(range(len(costs)), key=lambda i: (costs[i], errors[i]))
        kept: list[int] = []
        for i in order:
            if not kept or errors[i] < errors[kept[-1]]:
                kept.append(i)
        return Curve(name, tuple(costs[i] for i in kept), tuple(errors[i] for i in kept), tuple(kept))

    @property
    def last(self) -> int:
        """The best and dearest step."""
        return len(self.costs) - 1

    def slope(self, start: int, end: int) -> float:
        """Error saved per unit of cost between two steps."""
        return (self.errors[start] - self.errors[end]) / (self.costs[end] - self.costs[start])

    def hull(self) -> list[int]:
        """The steps on the lower convex hull of (cost, error), also those on straight parts."""
        kept: list[int] = []
        for step in range(len(self.costs)):
            while len(kept) > 1 and self.slope(kept[-2], kept[-1]) < (1 - 1e-9) * self.slope(kept[-1], step):
                kept.pop()
            kept.append(step)
        return kept


class OutOfReachError(ClisonixError):
    """Not even the cheapest choice fits the budget."""

    def __init__(self, smallest: float) -> None:
        super().__init__(f"the budget is out of reach: the least possible is {smallest:,}; raise the budget")
        self.smallest = smallest


def allocate(curves: Sequence[Curve], budget: float, exact: Callable[[Choice], float]) -> dict[str, int]:
    """The steps that make the sum of errors small while the cost stays within the budget.

    Segments of the convex hulls are bought in the order of error saved per cost, which is the Lagrangian
    optimum up to the last segment; what is left over then goes to the best single steps that fit
    (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 1988).

    Args:
        curves: one for each weight that takes part.
        budget: what the whole model may cost.
        exact: the cost of the whole model for a step of each curve; it may differ a little from the sum of theirs.

    Returns:
        The step of each curve.

    Raises:
        OutOfReachError: not even the first step everywhere fits.
    """
    dearest = {curve.name: curve.last for curve in curves}
    if exact(dearest) <= budget:
        return dearest
    cheapest = {curve.name: 0 for curve in curves}
    smallest = exact(cheapest)
    if smallest > budget:
        raise OutOfReachError(smallest)
    least = _NOISE * sum(curve.errors[0] for curve in curves)
    allowance = budget - smallest
    while True:
        steps = _buy(curves, allowance, least)
        excess = exact(steps) - budget
        if excess <= 0:
            break
        if allowance <= 0:
            steps = cheapest
            break
        # By so much at least that rounding cannot keep this going for ever.
        allowance -= max(excess, 1e-9 * abs(budget))
    for _ in range(_FILLS):
        if not _fill(curves, steps, budget, exact, least):
            break
    return steps


def _buy(curves: Sequence[Curve], allowance: float, least: float) -> dict[str, int]:
    segments = []
    for index, curve in enumerate(curves):
        slope = float("inf")
        for start, end in pairwise(curve.hull()):
            # Slopes that rounding alone tells apart must not change the order within a weight.
            slope = min(slope, curve.slope(start, end))
            if curve.errors[start] > least:
                segments.append((-slope, index, start, end))
    steps = {curve.name: 0 for curve in curves}
    for _, index, start, end in sorted(segments):
        curve = curves[index]
        price = curve.costs[end] - curve.costs[start]
        # A weight whose segment did not fit is out: its later segments start where it never got.
        if steps[curve.name] == start and price <= allowance:
            steps[curve.name] = end
            allowance -= price
    return steps


def _fill(
    curves: Sequence[Curve],
    steps: dict[str, int],
    budget: float,
    exact: Callable[[Choice], float],
    least: float,
) -> bool:
    """Take the single step that saves most error among those that fit; False when none does."""
    slack = budget - exact(steps)
    offers = []
    for curve in curves:
        now, reach = steps[curve.name], steps[curve.name]
        while reach < curve.last and curve.costs[reach + 1] <= curve.costs[now] + slack:
            reach += 1
        gain = curve.errors[now] - curve.errors[reach]
        if gain > least:
            offers.append((-gain, curve.name, reach))
    for _, name, reach in sorted(offers):
        # A file's header can grow by a digit or two, so the last step that seems to fit may not.
        for step in range(reach, max(steps[name], reach - 2), -1):
            if exact({**steps, name: step}) <= budget:
                steps[name] = step
                return True
    return False
