"""What the layers of a compressed model have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix

# Dense weights by the matrix they were made of and their shape: what was tied stays tied.
Dense = dict[tuple[int, tuple[int, ...]], nn.Parameter]


class LiamLayer:
    """A layer with one or more weights that are matrices of the algebra, under the names of the ordinary layer."""

    def keep_dtype(self, dtype: torch.dtype | None, *weights: Matrix) -> None:
        """Remember the dtype of the layer where its weights are stored in another one.

        An empty buffer does so, because whatever converts the layer converts it as well.
        """
        assert isinstance(self, nn.Module)
        if dtype is not None and any(weight.dtype != dtype for weight in weights):
            like = torch.empty(0, dtype=dtype, device=weights[0].device)
            self.register_buffer("_like", like, persistent=False)

    def dtype_for(self, weight: Matrix) -> torch.dtype:
        """The dtype that `weight` has in the ordinary layer."""
        like = getattr(self, "_like", None)
        return weight.dtype if like is None else like.dtype

    @abstractmethod
    def expand(self, made: Dense | None = None) -> nn.Module:
        """The ordinary layer with the same map, its weights detached; biases and whatever else was kept are shared.

        Args:
            made: dense weights that other layers have made already, to be shared with them.
        """


def held_matrices(module: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """The weights of a compressed layer that are matrices, by their parameter's name; none of any other module."""
    if not isinstance(module, LiamLayer):
        return
    for name, child in module.named_children():
        if isinstance(child, Matrix):
            yield name, child


def parameter_of(
    layer: LiamLayer, matrix: Matrix, shape: tuple[int, ...], made: Dense | None, flip: bool = False
) -> nn.Parameter:
    """The entries of `matrix` as a parameter of `shape`, the same one for the same matrix.

    Args:
        layer: that holds the matrix.
        matrix: of as many entries as `shape`.
        shape: of the parameter.
        made: where to look for one, and to put it.
        flip: whether the parameter holds the transpose.
    """
    key = (id(matrix), shape)
    if made is not None and key in made:
        return made[key]
    with torch.no_grad():
        dense = matrix.dense().to(layer.dtype_for(matrix))
        entries = (dense.mT if flip else dense).reshape(shape).clone(memory_format=torch.contiguous_format)
    parameter = nn.Parameter(entries, requires_grad=trainable(matrix))
    if made is not None:
        made[key] = parameter
    return parameter


def trainable(matrix: Matrix) -> bool:
    """Whether any tensor of `matrix` learns."""
    return any(parameter.requires_grad for parameter in matrix.parameters())


def check_bias(bias: Tensor | None, weight: Matrix) -> None:
    """Raise unless there is a number for each row of `weight`, or no bias."""
    if bias is not None and tuple(bias.shape) != weight.shape[:1]:
        raise ClisonixError(
            f"the bias has shape {tuple(bias.shape)} and the weight {weight.shape}; give {weight.shape[:1]}"
        )


def saving(*weights: Matrix) -> str:
    """How much of the dense bytes is left, for `extra_repr`."""
    dense = sum(matrix.shape[0] * matrix.shape[1] * matrix.dtype.itemsize for matrix in weights)
    return f"{sum(matrix.nbytes for matrix in weights) / max(dense, 1):.0%} of the dense bytes"
