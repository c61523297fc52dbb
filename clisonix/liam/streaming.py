"""Low rank for a matrix that is read in blocks of rows, several times over.

Only what grows with the columns is held: bases of a few rows `(w, n)`, or the products of the columns
`(n, n)` where `n` is small, and at last the factors. Nothing of length `m` exists but the left factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam import onepass
from clisonix.liam.exact import gram
from clisonix.liam.lowrank import LowRank
from clisonix.liam.randomized import TELLABLE, gaussian, widths, within
from clisonix.liam.rank import Target, choose_rank
from clisonix.liam.row_sources import Source, open_rows
from clisonix.liam.rows import Rows
from clisonix.liam.thin_svd import orthonormal, symmetric_eigen, thin_svd
from clisonix.liam.whitening import roots

# Columns up to which the products of all of them are affordable, in memory and in time.
MOST_COLUMNS = 2048
# Entries that a search may hold in its basis.
MOST_ENTRIES = 2**26


@dataclass(frozen=True)
class Rights:
    """Squared singular values `(r,)`, float64, descending, and right singular vectors as rows `(r, n)`."""

    squares: Tensor
    vectors: Tensor


def compress(
    source: Source, target: Target, whiten: Tensor | None, method: str, generator: torch.Generator | None
) -> LowRank:
    """`svd_compress` of what is read in blocks; see there for the arguments.

    A source that can be read again is read four times: twice to find the rows of the matrix that matter, with
    as many products as `randomized.leading` takes, once for the singular values, and once for the left factor.
    With few columns the products of all of them are summed up instead, in float64: two readings, and every
    singular value down to 1e-8 of the largest. An iterator is read once: see `clisonix.liam.onepass`.

    What a source gives must be the same each time. Rows in another order give the left factor in that of the
    last reading.
    """
    rows, again = open_rows(source, may_flip=whiten is None)
    to_inputs = None
    if whiten is not None:
        root, to_inputs = roots(whiten.to(rows.device), rows.columns)
        rows.spread = root.to(rows.dtype)
    if not again:
        if method != "auto":
            raise ClisonixError(f'method={method!r} reads x several times and an iterator gives it once; use "auto".')
        left, right = onepass.factors(rows, target)
    else:
        found, rank = _meeting(rows, target, method, generator or torch.Generator().manual_seed(0))
        left, right = _factors(rows, found, rank)
    if to_inputs is not None:
        right = (right.double() @ to_inputs).to(right.dtype)
    return LowRank(right.mT, left) if rows.flipped else LowRank(left, right)


def _meeting(rows: Rows, target: Target, method: str, generator: torch.Generator) -> tuple[Rights, int]:
    """The right singular vectors that meet the target, and how many those are."""
    n = rows.columns
    if _by_products(n, target, method):
        squares, vectors = symmetric_eigen(_first_reading(rows, lambda: _products(rows, None)))
        values = _above_rounding(squares, n * torch.finfo(torch.float64).eps).sqrt()
        rank = choose_rank(values, k=target.k, energy=target.energy, tol=target.tol)
        return Rights(values.square(), vectors.mT.to(rows.dtype)), min(rank, rows.count or rank)
    if target.k is not None:
        rank = min(target.k, n)
        return _leading(rows, rank, generator), min(rank, rows.count or rank)
    if target.share < TELLABLE[rows.dtype]:
        rows.dtype = torch.float64
    if target.share < TELLABLE[rows.dtype]:
        raise ClisonixError(
            f"With {n} columns, more than {MOST_COLUMNS}, a squared error of {target.share:.1g} of the squared norm "
            f"cannot be told from rounding; give k, or tol of at least {TELLABLE[rows.dtype] ** 0.5:g}."
        )
    most = min(n, int(MOST_ENTRIES / (2.25 * n)))
    met = within(lambda k: _leading(rows, k, generator), lambda: rows.squared_norm, target, n, most)
    if met is None:
        raise ClisonixError(
            f"The target needs a rank above {most}, the most that is searched for with {n} columns read in blocks; "
            f"give k={most} or less, or a less strict target."
        )
    return met[0], min(met[1], rows.count or n)


def _by_products(n: int, target: Target, method: str) -> bool:
    """Whether to sum up the products of all columns."""
    if method == "exact" and n > MOST_COLUMNS:
        raise ClisonixError(
            f'method="exact" needs the products of all columns, and x has {n} where {MOST_COLUMNS} are the most; '
            'use "auto".'
        )
    # In float64 they take as long as about twice as many in a search, which reads twice more.
    cheaper = target.k is None or n <= 4 * target.k + 100
    return method == "exact" or (method == "auto" and cheaper and n <= MOST_COLUMNS)


def _leading(rows: Rows, k: int, generator: torch.Generator) -> Rights:
    """The `k` leading squared singular values with their vectors, and some more that are less exact.

    The space searched is that of `randomized.leading`, held on the side of the columns. There, every product
    with the matrix is followed by one with its transpose before rounding can be mended, so that directions
    below 1e-3 of the largest may hide from the sketch; rows drawn anew stand in for them.
    """
    drawn, wider = widths(k, rows.columns)
    draw = partial(gaussian, dtype=rows.dtype, device=rows.device, generator=generator)
    sketch = draw((drawn, rows.columns))
    found = orthonormal(_first_reading(rows, lambda: _squared(rows, sketch)), wider)
    first = torch.cat([found, orthonormal(_beside(draw((wider - len(found), rows.columns)), found))])
    fresh = _beside(thin_svd(_squared(rows, first), k)[2], first)
    basis = torch.cat([first, orthonormal(fresh, beside=1.0)])
    squares, vectors = symmetric_eigen(_products(rows, basis))
    squares = _above_rounding(squares, torch.finfo(rows.dtype).eps ** 2)
    return Rights(squares, vectors.mT.to(basis.dtype) @ basis)


def _factors(rows: Rows, found: Rights, rank: int) -> tuple[Tensor, Tensor]:
    """`left (m, rank)`, which is `(rank, m)` where the rows are flipped, and `right (rank, n)`."""
    missing = rank - len(found.vectors)
    vectors = F.pad(found.vectors[:rank], (0, 0, 0, max(missing, 0)))
    split = F.pad(found.squares[:rank], (0, max(missing, 0))).sqrt().sqrt()
    whole = rows.scale**0.5
    right = ((split * whole).to(rows.dtype)[:, None] * vectors).to(rows.kept)
    turn = (torch.where(split > 0, whole / split, 0.0).to(rows.dtype)[:, None] * vectors).mT
    m = rows.count or 0
    left = torch.empty((rank, m) if rows.flipped else (m, rank), dtype=rows.kept, device=rows.device)
    for start, block in rows.blocks():
        part = block @ turn
        if rows.flipped:
            left[:, start : start + len(part)] = part.mT
        else:
            left[start : start + len(part)] = part
    return left, right


def _squared(rows: Rows, x: Tensor) -> Tensor:
    """`x @ A.mT @ A` for `x (w, n)`, in one reading."""
    total = torch.zeros_like(x)
    for _, block in rows.blocks():
        total.addmm_((block @ x.mT).mT, block)
    return total


def _products(rows: Rows, basis: Tensor | None) -> Tensor:
    """`(A @ basis.mT).mT @ (A @ basis.mT)` in float64, in one reading; without a basis, that of the columns."""
    total: Tensor | None = None
    for _, block in rows.blocks():
        total = gram(block if basis is None else block @ basis.mT, total)
    assert total is not None
    return total


def _first_reading(rows: Rows, read: Callable[[], Tensor]) -> Tensor:
    """What `read` gives, read again where the first time showed that the squares of the entries are out of range."""
    found = read()
    return found if rows.in_range() else read()


def _beside(block: Tensor, basis: Tensor) -> Tensor:
    """`block` without its components along the orthonormal rows of `basis`."""
    for _ in range(2):
        block = torch.addmm(block, block @ basis.mT, basis, alpha=-1)
    return block


def _above_rounding(squares: Tensor, noise: float) -> Tensor:
    """Descending `squares`, with zeros for those that are rounding of the largest."""
    return torch.where(squares > noise * squares[:1].clamp(min=0), squares, 0.0)
