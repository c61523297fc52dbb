"""A linear layer whose weight is a matrix of the algebra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clisonix.compress.layers.base import Dense, LiamLayer, check_bias, parameter_of, saving
from clisonix.compress.layers.products import times
from clisonix.liam.binary import Binary
from clisonix.liam.integer import Integer
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix

# Forms whose products are tensors that nobody else holds.
_NEW = (Integer, Binary, LowRank)


class LiamLinear(LiamLayer, nn.Linear):
    """`nn.Linear` whose weight is a `Matrix`.

    It is an `nn.Linear` to whoever asks (adapters such as peft's do) and needs nothing of it.

    Args:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)` or None. A parameter is shared, not copied.
        dtype: of the ordinary layer, where `weight` is stored in another one.
    """

    weight: Matrix  # type: ignore[assignment]
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(self, weight: Matrix, bias: nn.Parameter | None = None, *, dtype: torch.dtype | None = None) -> None:
        nn.Module.__init__(self)
        check_bias(bias, weight)
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)
        self.keep_dtype(dtype, weight)

    def reset_parameters(self) -> None:
        """Nothing: a compressed weight has no random start."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        y = times(self.weight, input)
        if self.bias is None:
            return y
        # Autocast runs the products in low precision; a float32 bias would silently undo that.
        bias = self.bias.to(y.dtype)
        # A second tensor of that size takes as long as half a product of many rows.
        return y.add_(bias) if isinstance(self.weight, _NEW) and not torch.is_grad_enabled() else y + bias

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = parameter_of(self, self.weight, self.weight.shape, made)
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{text}, bias={self.bias is not None}, {saving(self.weight)}"


class LiamConv1D(LiamLinear):
    """The `Conv1D` of transformers, a linear layer that keeps its weight transposed, with a `Matrix` for it.

    Args:
        weight: `(nf, nx)`: outputs by inputs, as of `LiamLinear`.
        bias: `(nf,)`. A parameter is shared, not copied.
        original: the class that `expand` gives back.
        dtype: as of `LiamLinear`.
    """

    def __init__(
        self,
        weight: Matrix,
        bias: nn.Parameter | None,
        original: type[nn.Module],
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, bias, dtype=dtype)
        self.nf, self.nx = weight.shape
        self._original = original

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        with torch.device("meta"):
            layer = self._original(self.nf, self.nx)
        layer.register_parameter("weight", parameter_of(self, self.weight, (self.nx, self.nf), made, flip=True))
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)
