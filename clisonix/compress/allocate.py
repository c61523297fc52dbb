"""Sharing out bytes: which rank each layer gets under one budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from clisonix.errors import ClisonixError

# A squared relative error below this is rounding, not something that bytes could buy.
_NOISE = 1e-13


@dataclass(frozen=True)
class Curve:
    """What the bytes of one layer buy. Steps 1..`ranks` are ranks; step `ranks + 1` keeps the dense weight.

    Attributes:
        name: of the layer.
        overhead: bytes of a factorised layer whatever its rank (header entries).
        per_rank: bytes of one more rank.
        dense: bytes of the dense weight.
        errors: at rank 0, 1, ..., full rank.
    """

    name: str
    overhead: int
    per_rank: int
    dense: int
    errors: Sequence[float]

    @property
    def ranks(self) -> int:
        """The largest rank that is smaller than the dense weight."""
        return min(len(self.errors) - 1, (self.dense - self.overhead - 1) // self.per_rank)

    def cost(self, step: int) -> int:
        """Bytes at a step."""
        return self.dense if step > self.ranks else self.overhead + step * self.per_rank

    def error(self, step: int) -> float:
        """Error at a step."""
        return 0.0 if step > self.ranks else self.errors[step]

    def rank(self, step: int) -> int | None:
        """The rank at a step, None for the dense weight."""
        return None if step > self.ranks else step

    def hull(self) -> list[int]:
        """The steps on the lower convex hull of (bytes, error), from rank 1 on."""
        kept: list[int] = []
        for step in range(1, self.ranks + 2):
            while len(kept) > 1 and self.slope(kept[-2], kept[-1]) <= self.slope(kept[-1], step):
                kept.pop()
            kept.append(step)
        return kept

    def slope(self, start: int, end: int) -> float:
        """Error saved per byte between two steps."""
        return (self.error(start) - self.error(end)) / (self.cost(end) - self.cost(start))


def allocate(curves: Sequence[Curve], budget: int, exact: Callable[[Mapping[str, int]], int]) -> dict[str, int]:
    """The ranks that make the sum of errors small while the file stays within the budget.

    Segments of the convex hulls are bought in the order of error saved per byte, which is the Lagrangian
    optimum up to the last segment; what is left over then goes to the best single steps that fit
    (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE TASSP 1988).

    Args:
        curves: one per layer that may be compressed; each has at least rank 1.
        budget: bytes the whole file may weigh.
        exact: the size of the whole file for given ranks; a layer left out is dense.

    Returns:
        The rank of each layer that is compressed.

    Raises:
        ClisonixError: not even rank 1 everywhere fits.
    """
    if exact({}) <= budget:
        return {}
    steps = {curve.name: 1 for curve in curves}
    smallest = exact(_ranks(curves, steps))
    if smallest > budget:
        raise ClisonixError(
            f"the budget of {budget:,} bytes is out of reach: the smallest possible file is {smallest:,} bytes "
            f"(rank 1 in {len(curves)} layers, the rest as it is); raise the budget or let more layers take part"
        )
    allowance = budget - smallest
    while True:
        steps = _buy(curves, allowance)
        excess = exact(_ranks(curves, steps)) - budget
        if excess <= 0:
            break
        allowance -= excess
    while _fill(curves, steps, budget, exact):
        pass
    return _ranks(curves, steps)


def _buy(curves: Sequence[Curve], allowance: int) -> dict[str, int]:
    segments = []
    for index, curve in enumerate(curves):
        hull = curve.hull()
        for start, end in pairwise(hull):
            if curve.error(start) > _NOISE:
                segments.append((-curve.slope(start, end), index, start, end))
    steps = {curve.name: 1 for curve in curves}
    for _, index, start, end in sorted(segments):
        curve = curves[index]
        price = curve.cost(end) - curve.cost(start)
        # A layer whose segment did not fit is out: its later segments start where it never got.
        if steps[curve.name] == start and price <= allowance:
            steps[curve.name] = end
            allowance -= price
    return steps


def _fill(
    curves: Sequence[Curve],
    steps: dict[str, int],
    budget: int,
    exact: Callable[[Mapping[str, int]], int],
) -> bool:
    """Take the single step that saves most error among those that fit; False when none does."""
    slack = budget - exact(_ranks(curves, steps))
    offers = []
    for curve in curves:
        now = steps[curve.name]
        reach = bisect_right(range(now, curve.ranks + 2), curve.cost(now) + slack, key=curve.cost) + now - 1
        gain = curve.error(now) - curve.error(reach)
        if gain > _NOISE:
            offers.append((-gain, curve.name, reach))
    for _, name, reach in sorted(offers):
        # The header can grow by a digit or two, so the last rank that seems to fit may not.
        for step in range(reach, max(steps[name], reach - 2), -1):
            trial = {**steps, name: step}
            if exact(_ranks(curves, trial)) <= budget:
                steps[name] = step
                return True
    return False


def _ranks(curves: Sequence[Curve], steps: Mapping[str, int]) -> dict[str, int]:
    ranks = {curve.name: curve.rank(steps[curve.name]) for curve in curves}
    return {name: rank for name, rank in ranks.items() if rank is not None}
