"""A matrix as the tensor of its entries."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clisonix.liam.matrix import Matrix, as_parameter


class Dense(Matrix):
    """Every entry, uncompressed.

    Args:
        weight: `(m, n)`. A plain tensor becomes a parameter (detached); a parameter is shared.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = as_parameter(weight, "weight", 2)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def adjoint(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def dense(self) -> Tensor:
        return self.weight
