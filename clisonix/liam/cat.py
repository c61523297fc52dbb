"""Matrices side by side, or one on top of the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.association import work
from clisonix.liam.matrix import Matrix, check_alike, check_size
from clisonix.liam.nodes import matrices, total
from clisonix.liam.rowblocks import by_row_blocks


class Cat(Matrix):
    """`[A B ...]` (`dim=1`) or the same stacked (`dim=0`), each block applied in its own form.

    >>> import torch
    >>> from clisonix.liam import Cat, Dense, Diagonal
    >>> a = Cat(Dense(torch.ones(2, 3)), Diagonal(torch.tensor([5.0, 7.0])), dim=1)
    >>> a.shape, a.dense().tolist()
    ((2, 5), [[1.0, 1.0, 1.0, 5.0, 0.0], [1.0, 1.0, 1.0, 0.0, 7.0]])

    Args:
        blocks: with as many rows each (`dim=1`), or as many columns (`dim=0`); of one dtype and device.
        dim: 0 stacks, 1 sets side by side.
    """

    blocks: nn.ModuleList

    def __init__(self, *blocks: Matrix, dim: int = 0) -> None:
        super().__init__()
        if dim not in (0, 1):
            raise ClisonixError(f"dim={dim!r} is no side of a matrix; give 0 to stack or 1 to set side by side.")
        if not blocks:
            raise ClisonixError("Nothing to put together has no shape; give at least one matrix.")
        for block in blocks[1:]:
            if block.shape[1 - dim] != blocks[0].shape[1 - dim]:
                raise ClisonixError(
                    f"{type(blocks[0]).__name__} of shape {blocks[0].shape} and {type(block).__name__} of shape "
                    f"{block.shape} cannot be {('stacked', 'set side by side')[dim]}; give equal "
                    f"{('columns', 'rows')[dim]}."
                )
        check_alike(blocks, "put together")
        self.blocks = nn.ModuleList(blocks)
        self.dim = dim
        self._sizes = [block.shape[dim] for block in blocks]
        total, other = sum(self._sizes), blocks[0].shape[1 - dim]
        self._size = (total, other) if dim == 0 else (other, total)

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, n)
        blocks = matrices(self.blocks)
        if self.dim == 0:
            return by_row_blocks(lambda rows: torch.cat([block(rows) for block in blocks], dim=-1), x, m, 2 * m)

        def add(rows: Tensor) -> Tensor:
            parts = torch.split(rows, self._sizes, dim=-1)
            return total(block(part) for block, part in zip(blocks, parts, strict=True))

        return by_row_blocks(add, x, m, 3 * m)

    def adjoint(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, m)
        blocks = matrices(self.blocks)
        if self.dim == 1:
            return by_row_blocks(
                lambda rows: torch.cat([block.adjoint(rows) for block in blocks], dim=-1), x, n, 2 * n
            )

        def add(rows: Tensor) -> Tensor:
            parts = torch.split(rows, self._sizes, dim=-1)
            return total(block.adjoint(part) for block, part in zip(blocks, parts, strict=True))

        return by_row_blocks(add, x, n, 3 * n)

    def dense(self) -> Tensor:
        return torch.cat([block.dense() for block in matrices(self.blocks)], dim=self.dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dim={self.dim}"

    def _first_float(self) -> Tensor:
        return matrices(self.blocks)[0]._first_float()


@work.register
def _(matrix: Cat) -> int:
    return sum(map(work, matrices(matrix.blocks)))
