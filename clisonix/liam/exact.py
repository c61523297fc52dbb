"""All singular values of a matrix that is held in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.liam.thin_svd import symmetric_eigen

# Entries that are turned into float64 at a time.
WIDENED_AT_ONCE = 2**21


@dataclass(frozen=True)
class Spectrum:
    """Every singular value, and the vectors for as many as are wanted.

    Args:
        values: `(min(m, n),)`, float64, descending; what is below the working precision is zero.
        tall: `(m, n)` with `m >= n`, the matrix or its transpose.
        left: `(m, n)`, left singular vectors, or None when they follow from the others.
        right: `(n, n)`, right singular vectors as rows.
        flipped: whether `tall` is the transpose.
    """

    values: Tensor
    tall: Tensor
    left: Tensor | None
    right: Tensor
    flipped: bool

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """`left (m, rank)` and `right (rank, n)` with the singular values split evenly between them."""
        right = self.right[:rank].to(self.tall.dtype)
        if self.left is not None:
            root = self.values[:rank].sqrt().to(self.tall.dtype)
            left, right = self.left[:, :rank].to(self.tall.dtype) * root, root[:, None] * right
        else:
            left = self.tall @ right.mT
            # The lengths of what is there, so that both factors get the same share whatever was rounded.
            length = torch.linalg.vector_norm(left, dim=0, dtype=torch.float64)
            root = length.sqrt()
            left *= torch.where(root > 0, 1 / root, 0.0).to(left.dtype)
            right = root.to(right.dtype)[:, None] * right
        return (right.mT, left.mT) if self.flipped else (left, right)


def spectrum(x: Tensor, squared: bool) -> Spectrum:
    """The singular value decomposition of `x (m, n)`, float32 or float64 and finite.

    Args:
        x: the matrix.
        squared: take the eigenvalues of the smaller Gram matrix, in float64: a third of the time, and as exact
            as float32 entries are. Squaring costs half the digits, of which float64 has more than twice as many.
    """
    flipped = x.shape[0] < x.shape[1]
    tall = x.mT if flipped else x
    eps = torch.finfo(torch.float64).eps
    if not squared:
        left, values, right = torch.linalg.svd(tall.double(), full_matrices=False)
        return Spectrum(_above(values, eps * tall.shape[0]), tall, left, right, flipped)
    squares, vectors = symmetric_eigen(gram(tall))
    rounding = eps * (tall.shape[1] + tall.shape[0] ** 0.5)
    return Spectrum(_above(squares.clamp(min=0), rounding).sqrt(), tall, None, vectors.mT, flipped)


def milliseconds(shape: tuple[int, int], squared: bool) -> float:
    """About what `spectrum` takes on two cores of a CPU."""
    n, m = sorted(shape)
    return 5e-8 * m * n**2 + 3e-7 * n**3 if squared else 5.5e-7 * m * n**2


def gram(tall: Tensor, total: Tensor | None = None) -> Tensor:
    """`tall.mT @ tall` in float64 `(n, n)`, added to `total`, with no copy of the whole in float64."""
    n = tall.shape[1]
    total = torch.zeros(n, n, dtype=torch.float64, device=tall.device) if total is None else total
    for block in torch.split(tall, max(1, WIDENED_AT_ONCE // max(n, 1))):
        wide = block.double()
        total.addmm_(wide.mT, wide)
    return total


def _above(values: Tensor, rounding: float) -> Tensor:
    """Descending `values`, with zeros for those that are rounding of the largest."""
    return values if values.numel() == 0 else torch.where(values > rounding * values[0], values, 0.0)
