"""A square matrix that is zero off its diagonal."""

from __future__ import annotations

from torch import Tensor

from clisonix.liam.matrix import Matrix, as_parameter, check_size


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
        return self.entries.shape[0], self.entries.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return check_size(x, -1, self, self.entries.shape[0]) * self.entries

    def adjoint(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def dense(self) -> Tensor:
        return self.entries.diag()
