"""The leading singular triplets of a matrix from a few products with thin blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from clisonix.liam.association import work
from clisonix.liam.dense import Dense
from clisonix.liam.matrix import Matrix, check_finite
from clisonix.liam.nodes import Transpose
from clisonix.liam.rank import Target
from clisonix.liam.scale import scale_for
from clisonix.liam.sparse import Sparse
from clisonix.liam.thin_svd import leading_directions, spanning, thin_svd

# Entries of the identity multiplied at a time to find the norm of a matrix that has no entries to look at.
IDENTITY_ENTRIES = 2**22
FIRST_RANK = 32
# Squared relative errors below which the rounding of products in this type cannot be told from an error.
# Of the error, what may be left to gain when the search ends early: 1 % is promised, and this is an estimate.
SETTLED = 0.006
TELLABLE = {torch.float32: 1e-4, torch.float64: 1e-12}


class Found(Protocol):
    """What a search comes back with: squared singular values, float64, descending."""

    @property
    def squares(self) -> Tensor: ...


Search = TypeVar("Search", bound=Found)


@dataclass(frozen=True)
class Triplets:
    """What a search found: singular values, and their vectors for as many as are wanted.

    Args:
        squares: `(r,)`, float64, descending: squares of lower bounds of the leading singular values.
        rotation: `(w, r)`.
        basis: blocks `(w_i, m)` with orthonormal rows, `w` rows in all.
        rows: `(r, n)`, orthonormal.
        flipped: whether this is of the transpose.
    """

    squares: Tensor
    rotation: Tensor
    basis: list[Tensor]
    rows: Tensor
    flipped: bool

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """`left (m, rank)` and `right (rank, n)`, singular values split evenly; zeros where `rank` exceeds `r`."""
        rows = self.rows[:rank]
        split = self.squares[:rank].sqrt().sqrt().to(rows.dtype)
        parts = torch.split(self.rotation[:, :rank].to(rows.dtype), [len(block) for block in self.basis])
        left = sum((block.mT @ part for block, part in zip(self.basis, parts, strict=True)), rows.new_zeros(()))
        left, right = left * split, split[:, None] * rows
        missing = rank - len(rows)
        if missing > 0:
            left = torch.nn.functional.pad(left, (0, missing))
            right = torch.nn.functional.pad(right, (0, 0, 0, missing))
        return (right.mT, left.mT) if self.flipped else (left, right)


def leading(x: Matrix, k: int, generator: torch.Generator | None = None) -> Triplets:
    """The `k` leading singular triplets of `x`, and some more that are less exact.

    Five products: a sketch of the rows, one power step, and a block Krylov space of two blocks. On the
    slowest and the fastest spectra alike, the Frobenius error at rank `k` is then within 1 % of the best, at
    a third less work than power iterations need for the same. Where the singular values fall fast, three
    products are enough and the other two are left out. (Musco and Musco, "Randomized block Krylov
    methods", NeurIPS 2015; the widths of the blocks are our own measurements.)

    Args:
        x: `(m, n)`, float32 or float64, entries as `searchable` leaves them.
        k: 1 to `min(m, n)`.
        generator: draws the sketch; a fixed seed without one.
    """
    flipped = x.shape[0] < x.shape[1]
    if flipped:
        x = x.T
    m, n = x.shape
    drawn, wider = widths(k, n)
    sketch = spanning(x.adjoint(gaussian((drawn, m), x.dtype, x.device, generator)))
    sketched = x(sketch) if len(sketch) else sketch.new_zeros(0, m)
    first, guesses = leading_directions(sketched, wider)
    if len(first) == 0:
        return Triplets(torch.zeros(0, dtype=torch.float64), first.mT[:0], [first], sketch, flipped)
    image = x.adjoint(first)
    rotation, values, rows = thin_svd(image)
    held = x.inner if isinstance(x, Transpose) else x
    # Of other forms the norm costs about as much as what it might save.
    if isinstance(held, Dense | Sparse) and _settled(guesses, values[:k], squared_norm(held)):
        return Triplets(values.square(), rotation, [first], rows, flipped)
    start = rows[:k]
    # What `x` makes of the start beyond the first block. Most of the overlap is known without a product, and
    # the rest is rounding, which the second subtraction removes.
    known = (rotation[:, :k] * values[:k]).mT.to(first.dtype)
    fresh = torch.addmm(x(start), known, first, alpha=-1)
    fresh = torch.addmm(fresh, fresh @ first.mT, first, alpha=-1)
    second = spanning(fresh, beside=float(values[0]) if len(values) else 0.0)
    if len(second):
        rotation, values, rows = thin_svd(torch.cat([image, x.adjoint(second)]))
    return Triplets(values.square(), rotation, [first, second], rows, flipped)


def within(
    find: Callable[[int], Search], norm: Callable[[], float], target: Target, small: int, limit: int
) -> tuple[Search, int] | None:
    """The leading singular values that keep an energy or meet a tolerance, and how many those are.

    The error of a rank is the squared norm of the matrix less the squares of the singular values kept, so it
    is known and not guessed. The search doubles the rank until that is small enough.

    Args:
        find: searches for so many leading singular values, and may come back with more.
        norm: the squared norm of the matrix, asked after the first search.
        target: not a rank.
        small: the smaller side of the matrix.
        limit: give up where a higher rank is needed, as early as that can be told.
    """
    k = min(FIRST_RANK, small)
    while k <= limit:
        found = find(k)
        total = norm()
        rank = target.choose(found.squares, total)
        # Singular values beyond the k-th are less exact: with them the target takes a higher rank than it needs.
        if rank is not None and (rank <= k or k == small):
            return found, rank
        if k == small:
            return None
        if rank is None:
            kept = found.squares[:k]
            lacking = (1.0 - target.share) * total - float(kept.sum())
            # No singular value further on is larger than the last of these.
            rank = max(2 * k, k + math.ceil(lacking / float(kept[-1])))
        k = min(rank, small)
    return None


def widths(k: int, n: int) -> tuple[int, int]:
    """Rows of the sketch and of the first block for rank `k` of `n`: enough for the slowest spectra we measured."""
    return min(k + max(3 * k // 4, 16), n + 16), min(k + max(k // 4, 8), n)


def milliseconds(x: Matrix, k: int) -> float:
    """About what `leading` takes on two cores of a CPU."""
    w = 2.25 * k + 24
    return 5.0 + 2e-7 * work(x) * (k + 10) + 5e-8 * sum(x.shape) * w**2 + 3e-7 * w**3


def searchable(x: Matrix, dtype: torch.dtype) -> tuple[Matrix, float]:
    """`x / scale` in `dtype`, with entries whose squares neither overflow nor vanish, and that scale.

    Raises:
        ClisonixError: an entry that is NaN or infinite.
    """
    if x.dtype != dtype:
        x = Dense(x.dense().to(dtype)) if isinstance(x, Dense) else copy.deepcopy(x).to(dtype)
    size = _magnitude(x)
    if not math.isfinite(size):
        check_finite(x.dense(), "x")
    scale = scale_for(size)
    return (x if scale == 1.0 else x * (1.0 / scale)), scale


def squared_norm(x: Matrix) -> float:
    """The squared Frobenius norm of `x (m, n)`, exact up to rounding and without its entries in one piece."""
    if isinstance(x, Dense | Sparse):
        held = x.weight if isinstance(x, Dense) else x.values.view(1, -1)
        return float(torch.linalg.vector_norm(held, dim=1, dtype=held.dtype).double().square().sum())
    if isinstance(x, Transpose):
        return squared_norm(x.inner)
    if x.shape[0] < x.shape[1]:
        x = x.T
    return math.fsum(float(x(block).double().square().sum()) for block in _identity(x))


def gaussian(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Normal numbers, from a fixed seed without a generator."""
    generator = generator or torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def _settled(before: Tensor, after: Tensor, total: float) -> bool:
    """Whether products with another block could no longer lower the error by much.

    A direction comes nearer to a singular one with each product, at least by the ratio of the first singular value
    left out of the sketch to its own: so what the last product gained, times that ratio, its square and so on, is all
    that is still to be gained.

    Args:
        before: singular values that the sketch shows, descending.
        after: the leading ones after one more product.
        total: squared norm of the matrix.
    """
    count = min(len(before), len(after))
    gained = (after[:count].square() - before[:count].square()).clamp(min=0)
    ratio = (before[-1] / after[:count]).clamp(max=0.999)
    left = total - float(after.square().sum())
    return float((gained * ratio / (1 - ratio)).sum()) <= 2 * SETTLED * max(left, 0.0)


def _magnitude(x: Matrix) -> float:
    """The size of the largest entries, not finite if some entry is not."""
    if 0 in x.shape:
        return 0.0
    if isinstance(x, Dense | Sparse):
        held = x.weight if isinstance(x, Dense) else x.values
        return max((abs(float(end)) for end in torch.aminmax(held)), default=0.0) if held.numel() else 0.0
    return float(x.adjoint(gaussian((1, x.shape[0]), x.dtype, x.device)).abs().max())


def _identity(x: Matrix) -> Iterator[Tensor]:
    n = x.shape[1]
    for start in range(0, n, max(1, IDENTITY_ENTRIES // max(n, 1))):
        stop = min(n, start + max(1, IDENTITY_ENTRIES // n))
        block = torch.zeros(stop - start, n, dtype=x.dtype, device=x.device)
        block[torch.arange(stop - start), torch.arange(start, stop)] = 1
        yield block
