"""In which order a product of matrices is cheapest: `(A B) x` or `A (B x)`.

The cost of a step is its multiplications and additions, and `BALANCE` for each number it reads or writes:
about what a CPU or a GPU could have calculated in the time it takes to move one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, singledispatch

from torch import Tensor

from clisonix.liam.diagonal import Diagonal
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.permutation import Permutation
from clisonix.liam.sparse import Sparse

BALANCE = 8
# Two factors are multiplied out for a batch only where that takes at most this part of their own bytes:
# what is packed stays packed.
LARGEST_SHARE = 1 / 4

Segment = tuple[int, int]


@singledispatch
def work(matrix: Matrix) -> int:
    """Multiplications to apply `matrix` to one vector. A form that does not say takes all of its entries."""
    m, n = matrix.shape
    return m * n


@work.register
def _(matrix: Diagonal | Permutation) -> int:
    return matrix.shape[0]


@work.register
def _(matrix: LowRank) -> int:
    return matrix.rank * sum(matrix.shape)


@work.register
def _(matrix: Sparse) -> int:
    return matrix.values.numel()


class Chain:
    """The factors of a product as a problem of association.

    Args:
        factors: one or more, that fit each other.
    """

    def __init__(self, factors: Sequence[Matrix]) -> None:
        self.factors = factors
        self.sizes = [factors[0].shape[0], *(factor.shape[1] for factor in factors)]
        self.works = [work(factor) for factor in factors]
        self.best = cache(self._best)

    def dense(self) -> Tensor:
        """The entries of the product, multiplied out in the cheapest order."""
        return self.entries(0, len(self.factors) - 1)

    def entries(self, first: int, last: int) -> Tensor:
        """The entries of the product of the factors `first` to `last`, both included."""
        if first == last:
            return self.factors[first].dense()
        _, split, from_left = self.best(first, last)
        if from_left:
            return self.factors[first].matmul(self.entries(first + 1, last))
        if split == last - 1:
            return self.factors[last].adjoint(self.entries(first, split))
        return self.entries(first, split) @ self.entries(split + 1, last)

    def segments(self, columns: int) -> list[Segment]:
        """How to apply the product to `columns` vectors: runs of factors, each multiplied out if longer than one.

        Only runs that become much smaller are; see `LARGEST_SHARE`.
        """
        sizes, count = self.sizes, len(self.factors)
        # least[i]: the cost of the factors before i, and where the last run among them begins.
        least: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, count + 1):
            choices = []
            for start in range(end):
                if start == end - 1:
                    cost = self._apply(start, columns)
                elif self._shrinks(start, end):
                    cost = self.best(start, end - 1)[0] + _multiply(sizes[start], sizes[end], columns)
                else:
                    continue
                choices.append((least[start][0] + cost, start))
            least.append(min(choices))
        found: list[Segment] = []
        end = count
        while end > 0:
            found.append((least[end][1], end - 1))
            end = least[end][1]
        return found[::-1]

    def _best(self, first: int, last: int) -> tuple[float, int, bool]:
        """Cost of the entries of a run, where to split it, and whether its first factor is applied as it is."""
        if first == last:
            return BALANCE * self.sizes[first] * self.sizes[last + 1], first, False
        sizes = self.sizes
        choices = [
            (self._apply(first, sizes[last + 1]) + self.best(first + 1, last)[0], first, True),
            (self._apply(last, sizes[first]) + self.best(first, last - 1)[0], last - 1, False),
        ]
        for split in range(first + 1, last - 1):
            parts = self.best(first, split)[0] + self.best(split + 1, last)[0]
            choices.append((parts + _multiply(sizes[first], sizes[split + 1], sizes[last + 1]), split, False))
        return min(choices)

    def _apply(self, index: int, vectors: int) -> float:
        moved = (self.sizes[index] + self.sizes[index + 1]) * vectors + self.works[index]
        return float(self.works[index]) * vectors + BALANCE * moved

    def _shrinks(self, start: int, end: int) -> bool:
        held = sum(factor.nbytes for factor in self.factors[start:end])
        return self.sizes[start] * self.sizes[end] * self.factors[start].dtype.itemsize <= LARGEST_SHARE * held


def _multiply(m: int, p: int, n: int) -> float:
    return float(m) * p * n + BALANCE * (float(m) * p + p * n + m * n)
