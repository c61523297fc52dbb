"""Low rank without looking at the entries: thin factors of sums and products, recompressed and rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.association import Chain
from clisonix.liam.blockdiagonal import BlockDiagonal, block_diagonal
from clisonix.liam.cat import Cat
from clisonix.liam.integer import Integer
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose, matrices
from clisonix.liam.selection import pick
from clisonix.liam.slicing import Slice

Factors = tuple[Tensor, Tensor]


def recompress(
    matrix: Matrix, *, k: int | None = None, energy: float | None = None, tol: float | None = None
) -> LowRank:
    """The best approximation of lower rank of a matrix whose rank is low by its form.

    QR of its thin factors and an SVD of a core as small as they are; the `(m, n)` entries are never formed.

    >>> import torch
    >>> from clisonix.liam import Diagonal, LowRank, recompress
    >>> a, b = (LowRank(torch.rand(300, 8), torch.rand(8, 200)) for _ in range(2))
    >>> recompress(Diagonal(torch.rand(300)) @ (a - 2 * b), k=5)
    LowRank(300×200, float32, 10000 bytes, rank 5)

    Args:
        matrix: a `LowRank`; a product with one, or with a middle thinner than its ends; sums, multiples,
            transposes, slices, and matrices side by side or block by block, of such.
        k: rank to keep, at least 1. Give exactly one of the three.
        energy: fraction of the squared norm to keep, in (0, 1].
        tol: relative Frobenius error allowed, in [0, 1).

    Returns:
        A new `LowRank` of the same dtype, detached.

    Raises:
        ClisonixError: some part of `matrix` has no thin factors.
    """
    with torch.no_grad():
        return LowRank(*thin_factors(matrix)).recompress(k=k, energy=energy, tol=tol)


def thin_factors(matrix: Matrix) -> Factors:
    """`left (m, r)` and `right (r, n)` with `left @ right = matrix`, differentiable in what it holds.

    Raises:
        ClisonixError: some part of `matrix` has no thin factors.
    """
    found = _thin(matrix)
    if isinstance(found, Matrix):
        raise ClisonixError(
            f"{type(found).__name__} of shape {found.shape} has no thin factors; give sums and products of LowRank, "
            "or use svd_compress, which takes any matrix."
        )
    return found


def quantize(matrix: LowRank, bits: int, group: int = 64) -> LowRank:
    """`matrix` with both factors as integers of `bits` bits.

    Any invertible matrix may stand between the factors, and rounding depends on which one does. This splits
    the singular values evenly and then turns both factors by the cosine transform, which spreads every
    component over all columns; where the singular values fall over two decades, a third of the error goes.
    (Turning before rounding: Chee et al., "QuIP", NeurIPS 2023.) The left factor is stored transposed, so that
    a group of entries with one scale lies within a column, however few columns there are.

    Args:
        matrix: finite.
        bits: 2 to 8.
        group: rows of `left`, and columns of `right`, that share a scale.

    Returns:
        A `LowRank` whose factors are `Integer` matrices of the same dtype, detached.
    """
    even = matrix if matrix.rank == 0 or 0 in matrix.shape else matrix.recompress(k=matrix.rank)
    with torch.no_grad():
        turn = _cosines(even.rank).to(even.left)
        left = Integer.rounded((even.left @ turn).mT.contiguous(), bits, group)
        right = Integer.rounded(turn.mT @ even.right, bits, group)
    return LowRank(left.T, right)


def _thin(matrix: Matrix) -> Factors | Matrix:
    """The factors, or the part of `matrix` that has none."""
    match matrix:
        case LowRank():
            return matrix.left, matrix.right
        case Scaled():
            found = _thin(matrix.inner)
            return found if isinstance(found, Matrix) else (found[0] * matrix.scale, found[1])
        case Transpose():
            found = _thin(matrix.inner)
            return found if isinstance(found, Matrix) else (found[1].mT, found[0].mT)
        case Slice():
            found = _thin(matrix.inner)
            if isinstance(found, Matrix):
                return found
            return pick(found[0], matrix.rows, 0), pick(found[1], matrix.columns, 1)
        case Product():
            return _thin_product(matrix)
        case Sum():
            return _thin_parts(matrices(matrix.terms), left_together=True, right_together=True)
        case Cat():
            stacked = matrix.dim == 0
            return _thin_parts(matrices(matrix.blocks), left_together=not stacked, right_together=stacked)
        case BlockDiagonal():
            return _thin_parts(matrices(matrix.blocks), left_together=False, right_together=False)
    return matrix


def _thin_parts(parts: list[Matrix], *, left_together: bool, right_together: bool) -> Factors | Matrix:
    """Factors of parts that share rows (`left_together`), columns, both or neither."""
    lefts, rights = [], []
    for part in parts:
        found = _thin(part)
        if isinstance(found, Matrix):
            return found
        lefts.append(found[0])
        rights.append(found[1])
    left = torch.cat(lefts, dim=1) if left_together else block_diagonal(*lefts)
    right = torch.cat(rights, dim=0) if right_together else block_diagonal(*rights)
    return left, right


def _thin_product(product: Product) -> Factors | Matrix:
    """Factors around the thinnest place: a factor of low rank, or a boundary between two factors."""
    factors = matrices(product.factors)
    candidates: list[tuple[int, int, Factors]] = []
    for i, factor in enumerate(factors):
        found = _thin(factor)
        if not isinstance(found, Matrix):
            candidates.append((found[0].shape[1], i, found))
    widest = min([*product.shape, *(rank for rank, _, _ in candidates)])
    narrow = min(range(1, len(factors)), key=lambda i: factors[i].shape[0], default=0)
    if narrow and factors[narrow].shape[0] < widest:
        return Chain(factors[:narrow]).dense(), Chain(factors[narrow:]).dense()
    if not candidates:
        return product
    _, place, (left, right) = min(candidates, key=lambda candidate: candidate[0])
    if place > 0:
        left = Product(*factors[:place]).matmul(left)
    if place < len(factors) - 1:
        right = Product(*factors[place + 1 :]).adjoint(right)
    return left, right


def _cosines(r: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) `(r, r)`, in float64."""
    k = torch.arange(r, dtype=torch.float64)
    rows = torch.cos(math.pi / max(r, 1) * (k + 0.5) * k[:, None]) * math.sqrt(2 / max(r, 1))
    rows[:1] /= math.sqrt(2)
    return rows
