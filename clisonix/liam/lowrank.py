"""A matrix as the product of a tall and a wide factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam.dense import Dense
from clisonix.liam.matrix import Matrix, as_parameter, check_finite, check_input, check_size
from clisonix.liam.rank import choose_rank


class LowRank(Matrix):
    """`left @ right`, stored as `r·(m + n)` numbers instead of `m·n`.

    >>> import torch
    >>> from clisonix.liam import LowRank
    >>> a = LowRank(torch.ones(64, 4), torch.ones(4, 96))
    >>> a, a.quantize(bits=8, group=32).nbytes
    (LowRank(64×96, float32, 2560 bytes, rank 4), 720)

    Args:
        left: `(m, r)`: a plain tensor becomes a parameter (detached), a parameter is shared, and a matrix of
            the algebra (packed, sparse, ...) is multiplied in its own form.
        right: `(r, n)`, of the same dtype and device.
    """

    def __init__(self, left: Tensor | Matrix, right: Tensor | Matrix) -> None:
        super().__init__()
        if isinstance(left, Matrix) or isinstance(right, Matrix):
            self.left_matrix = left if isinstance(left, Matrix) else Dense(left)
            self.right_matrix = right if isinstance(right, Matrix) else Dense(right)
        else:
            # Straight into torch's table, under the names that files use: `left` and `right` are properties.
            self._parameters["left"] = as_parameter(left, "left", 2)
            self._parameters["right"] = as_parameter(right, "right", 2)
        if left.shape[1] != right.shape[0] or left.dtype != right.dtype or left.device != right.device:
            raise ClisonixError(
                f"left is {tuple(left.shape)} {left.dtype} on {left.device} and right is "
                f"{tuple(right.shape)} {right.dtype} on {right.device}; give (m, r) and (r, n) of one dtype "
                "on one device."
            )

    @property
    def packed(self) -> bool:
        """Whether the factors are matrices in a form of their own and not plain tensors."""
        return not self._held

    @property
    def left(self) -> Tensor:
        """The entries of the left factor `(m, r)`: the parameter itself, or what a packed factor unpacks to."""
        held = self._held
        return held["left"] if held else self.left_matrix.dense()

    @property
    def right(self) -> Tensor:
        """The entries of the right factor `(r, n)`, as `left`."""
        held = self._held
        return held["right"] if held else self.right_matrix.dense()

    @property
    def factors(self) -> tuple[Matrix, Matrix]:
        """Both factors as matrices that share the tensors held here."""
        if self.packed:
            return self.left_matrix, self.right_matrix
        return Dense(self.left), Dense(self.right)

    @property
    def shape(self) -> tuple[int, int]:
        held = self._held
        if not held:
            return self.left_matrix.shape[0], self.right_matrix.shape[1]
        return held["left"].shape[0], held["right"].shape[1]

    @property
    def rank(self) -> int:
        """Columns of `left`: an upper bound on the rank of the product."""
        held = self._held
        return held["right"].shape[0] if held else self.right_matrix.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        held = self._held
        if not held:
            check_size(x, -1, self, self.right_matrix.shape[1])
            return cast(Tensor, self.left_matrix(self.right_matrix(x)))
        right = held["right"]
        return F.linear(F.linear(check_input(x, -1, self, right.shape[1], right), right), held["left"])

    def adjoint(self, x: Tensor) -> Tensor:
        held = self._held
        if not held:
            check_size(x, -1, self, self.left_matrix.shape[0])
            return self.right_matrix.adjoint(self.left_matrix.adjoint(x))
        left = held["left"]
        return check_input(x, -1, self, left.shape[0], left) @ left @ held["right"]

    def matmul(self, x: Tensor) -> Tensor:
        held = self._held
        if not held:
            check_size(x, -2, self, self.right_matrix.shape[1])
            return self.left_matrix.matmul(self.right_matrix.matmul(x))
        right = held["right"]
        return held["left"] @ (right @ check_input(x, -2, self, right.shape[1], right))

    def dense(self) -> Tensor:
        return self.left @ self.right

    @torch.no_grad()
    def recompress(self, *, k: int | None = None, energy: float | None = None, tol: float | None = None) -> LowRank:
        """The best approximation of lower rank, found without forming the `(m, n)` product.

        QR of both factors, then the SVD of an `(r, r)` core, in float64: `O((m + n) r² + r³)`. The function
        `clisonix.liam.recompress` does the same for sums and products.

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

    def quantize(self, bits: int, group: int = 64) -> LowRank:
        """The same matrix with both factors rounded to `bits` bits: see `clisonix.liam.thin.quantize`."""
        from clisonix.liam.thin import quantize

        return quantize(self, bits, group)

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

    def _first_float(self) -> Tensor:
        return self.left_matrix._first_float() if self.packed else self.left

    @property
    def _held(self) -> dict[str, Tensor]:
        """The factors that are plain tensors: both or none. Torch's own table answers faster than the module."""
        return self._parameters  # type: ignore[return-value]
