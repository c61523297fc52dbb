"""The singular value decomposition of a block of few rows, by its small Gram matrix where that is exact enough."""

from __future__ import annotations

import torch
from torch import Tensor

# Accelerators need milliseconds for the eigenvalues of a matrix this small; copying it costs microseconds.
SMALL = 512
# Rows whose lengths span more than this come out of one pass visibly skew in float32.
SPREAD = 1e-2


def thin_svd(block: Tensor, keep: int | None = None, beside: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """`block ≈ rotation @ diag(values) @ rows`, without what is below the working precision.

    A float32 block goes through the eigenvalues of its Gram matrix in float64: that squares the spread of the
    singular values, and float64 has more than twice the digits. A float64 block goes through QR.

    Args:
        block: `(w, n)`, float32 or float64, for a `w` that is small.
        keep: leading triplets wanted; all of them by default.
        beside: the largest singular value that the block's rounding comes from, where that is not its own.

    Returns:
        `rotation (w, r)` and `values (r,)`, descending and positive, in float64, and `rows (r, n)` in the dtype
        of `block`: orthonormal, in float32 up to its rounding times `values[0] / values[-1]`. `r` is at most
        `keep` and the numerical rank; a block of zeros has none.
    """
    noise = 4 * torch.finfo(block.dtype).eps
    if block.dtype == torch.float64:
        basis, small = torch.linalg.qr(block.mT)
        left, values, right = torch.linalg.svd(small, full_matrices=False)
        count = _count(values, noise, beside, keep)
        return right.mT[:, :count], values[:count], (basis @ left[:, :count]).mT
    wide = block.double()
    squares, vectors = symmetric_eigen(wide @ wide.mT)
    values = squares.clamp(min=0).sqrt()
    count = _count(values, noise, beside, keep)
    values, vectors = values[:count], vectors[:, :count]
    return vectors, values, (vectors / values).mT.to(block.dtype) @ block


def leading_directions(block: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The first `keep` rows of `orthonormal(block)`, and all singular values of `block`."""
    _, values, rows = thin_svd(block)
    return _again(rows[:keep], values), values


def orthonormal(block: Tensor, keep: int | None = None, beside: float = 0.0) -> Tensor:
    """Orthonormal rows `(r, n)` that span the `keep` leading singular directions of `block (w, n)`, as `thin_svd`."""
    _, values, rows = thin_svd(block, keep, beside)
    return _again(rows, values)


def _again(rows: Tensor, values: Tensor) -> Tensor:
    """`rows` that belong to the leading `values`, orthonormal once more where one pass leaves them skew."""
    if rows.dtype == torch.float64 or not len(rows) or values[len(rows) - 1] >= SPREAD * values[0]:
        return rows
    return thin_svd(rows)[2]


def spanning(block: Tensor, beside: float = 0.0) -> Tensor:
    """Orthonormal rows `(r, n)` that span the rows of `block (w, n)`: in no order, so cheaper than singular vectors.

    Args:
        block: as for `thin_svd`.
        beside: as for `thin_svd`.
    """
    if block.dtype == torch.float64 or not len(block):
        return orthonormal(block, beside=beside)
    wide = block.double()
    factor, failed = torch.linalg.cholesky_ex(wide @ wide.mT)
    lengths = factor.diagonal()
    # Each is how far a row is from those before it: if none is short beside the rounding, no direction is lost in it.
    if int(failed) or not bool(lengths.min() > SPREAD * max(float(lengths.max()), beside)):
        return orthonormal(block, beside=beside)
    identity = torch.eye(len(block), dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.to(block.dtype) @ block


def symmetric_eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and eigenvectors as columns of a symmetric matrix `(w, w)`."""
    away = gram.is_cuda and gram.shape[0] <= SMALL
    values, vectors = torch.linalg.eigh(gram.cpu() if away else gram)
    return values.flip(0).to(gram.device), vectors.flip(1).to(gram.device)


def _count(values: Tensor, noise: float, beside: float, keep: int | None) -> int:
    """How many of the descending `values` are above the noise, at most `keep`."""
    if values.numel() == 0:
        return 0
    count = int((values > noise * max(float(values[0]), beside)).sum())
    return count if keep is None else min(count, keep)
