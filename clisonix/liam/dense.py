"""A matrix as the tensor of its entries."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clisonix.liam.matrix import Matrix, as_parameter, check_input


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
        weight = self.weight
        return F.linear(check_input(x, -1, self, weight.shape[1], weight), weight)

    def adjoint(self, x: Tensor) -> Tensor:
        weight = self.weight
        return check_input(x, -1, self, weight.shape[0], weight) @ weight

    def matmul(self, x: Tensor) -> Tensor:
        weight = self.weight
        return weight @ check_input(x, -2, self, weight.shape[1], weight)

    def dense(self) -> Tensor:
        return self.weight
