"""A matrix as the product of a tall and a wide factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix, as_parameter, check_finite
from clisonix.liam.rank import choose_rank


class LowRank(Matrix):
    """`left @ right`, stored as `r·(m + n)` numbers instead of `m·n`.

    Args:
        left: `(m, r)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        right: `(r, n)`, of the same dtype and device.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.left = as_parameter(left, "left", 2)
        self.right = as_parameter(right, "right", 2)
        if left.shape[1] != right.shape[0] or left.dtype != right.dtype or left.device != right.device:
            raise ClisonixError(
                f"left is {tuple(left.shape)} {left.dtype} on {left.device} and right is "
                f"{tuple(right.shape)} {right.dtype} on {right.device}; give (m, r) and (r, n) of one dtype "
                "on one device."
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """Columns of `left`: an upper bound on the rank of the product."""
        return self.left.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.right), self.left)

    def adjoint(self, x: Tensor) -> Tensor:
        return x @ self.left @ self.right

    def dense(self) -> Tensor:
        return self.left @ self.right

    @torch.no_grad()
    def recompress(self, *, k: int | None = None, energy: float | None = None, tol: float | None = None) -> LowRank:
        """The best approximation of lower rank, found without forming the `(m, n)` product.

        QR of both factors, then the SVD of an `(r, r)` core, in float64: `O((m + n) r² + r³)`.

        Args:
            k: rank to keep, at least 1. Give exactly one of the three.
            energy: fraction of the squared norm to keep, in (0, 1].
            tol: relative Frobenius error allowed, in [0, 1).

        Returns:
            A new matrix of this dtype, its singular values split evenly, detached from this one.
        """
        q_left, r_left = torch.linalg.qr(check_finite(self.left, "left").double())
        q_right, r_right = torch.linalg.qr(check_finite(self.right, "right").double().mT)
        u, s, vh = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
        rank = choose_rank(s, k=k, energy=energy, tol=tol)
        root = s[:rank].sqrt()
        left = (q_left @ u[:, :rank]) * root
        right = root[:, None] * (vh[:rank] @ q_right.mT)
        return LowRank(left.to(self.dtype), right.to(self.dtype))

    @staticmethod
    @torch.no_grad()
    def concatenate(terms: Sequence[LowRank]) -> LowRank:
        """The sum of `terms` as one matrix whose rank is the sum of their ranks, detached from them.

        `sum` of matrices stays lazy and keeps gradients; this one is for adding up finished updates,
        usually followed by `recompress`.
        """
        if not terms or len({(term.shape, term.dtype, term.device) for term in terms}) != 1:
            shapes = ", ".join(f"{term.shape} {term.dtype}" for term in terms) or "nothing"
            raise ClisonixError(f"Cannot concatenate {shapes}; give terms of one shape, dtype and device.")
        left = torch.cat([term.left for term in terms], dim=1)
        return LowRank(left, torch.cat([term.right for term in terms], dim=0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank {self.rank}"
