"""An embedding whose table is a matrix of the algebra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clisonix.compress.layers.base import Dense, LiamLayer, parameter_of, saving
from clisonix.compress.layers.products import rows
from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix


class LiamEmbedding(LiamLayer, nn.Module):
    """`nn.Embedding` whose table is a `Matrix`: only the rows asked for are unpacked.

    Args:
        weight: `(num_embeddings, embedding_dim)`.
        padding_idx: the row that gets no gradient.
        dtype: of the rows; that of `weight` by default.
    """

    def __init__(self, weight: Matrix, padding_idx: int | None = None, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        if padding_idx is not None and not 0 <= padding_idx < self.num_embeddings:
            raise ClisonixError(
                f"padding_idx is {padding_idx} for a table of {self.num_embeddings} rows; give the number of a row"
            )
        self.padding_idx = padding_idx
        self.weight = weight
        self.keep_dtype(dtype, weight)

    def forward(self, input: Tensor) -> Tensor:
        """Whole numbers `(*)` to their rows `(*, embedding_dim)`."""
        _check_places(input, self.num_embeddings)
        # An ordinary embedding looks up and multiplies nothing, so autocast leaves its precision alone.
        with torch.autocast(input.device.type, enabled=False):
            found = rows(self.weight, input.reshape(-1), self.dtype_for(self.weight))
        found = found.reshape(*input.shape, self.embedding_dim)
        if self.padding_idx is None or not torch.is_grad_enabled():
            return found
        return torch.where((input == self.padding_idx)[..., None], found.detach(), found)

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        layer = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        layer.weight = parameter_of(self, self.weight, self.weight.shape, made)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, {saving(self.weight)}"


def _check_places(index: Tensor, count: int) -> None:
    """Raise an IndexError, as an ordinary embedding does, for a place outside the table.

    Packed rows end in bits that are no row. On a GPU looking would make it wait, and on meta there is nothing to see.
    """
    if index.device.type != "cpu" or torch.compiler.is_compiling() or not index.numel():
        return
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= count:
        raise IndexError(f"rows {low} to {high} were asked for of a table that has 0 to {count - 1}")
