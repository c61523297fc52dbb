"""A square matrix that is zero off its diagonal."""

from __future__ import annotations

from torch import Tensor

from clisonix.liam.matrix import Matrix, as_parameter, check_input


class Diagonal(Matrix):
    """`n` numbers for an `(n, n)` matrix: the scales between the factors of a product.

    Args:
        entries: `(n,)`. A plain tensor becomes a parameter (detached); a parameter is shared.
    """

    def __init__(self, entries: Tensor) -> None:
        super().__init__()
        self.entries = as_parameter(entries, "entries", 1)

    @property
    def shape(self) -> tuple[int, int]:
        n = self.entries.shape[0]
        return n, n

    def forward(self, x: Tensor) -> Tensor:
        entries = self.entries
        return check_input(x, -1, self, entries.shape[0], entries) * entries

    def adjoint(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def matmul(self, x: Tensor) -> Tensor:
        entries = self.entries
        return check_input(x, -2, self, entries.shape[0], entries) * entries[:, None]

    def dense(self) -> Tensor:
        return self.entries.diag()
