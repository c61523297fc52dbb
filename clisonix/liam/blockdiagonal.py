"""Matrices along the diagonal of a larger one: how a batch of matrices lives among matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.association import work
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix, as_parameter, check_alike, check_input, check_size
from clisonix.liam.nodes import matrices
from clisonix.liam.rowblocks import SMALL, by_row_blocks


class BlockDiagonal(Matrix):
    """Blocks of any form and size along the diagonal, zeros elsewhere.

    Small blocks that are all dense, or all of low rank, and of one size are multiplied in one batched product.
    `Batch` is the form that does so whatever their size, because it stores them so; `simplify` makes it.

    >>> import torch
    >>> from clisonix.liam import BlockDiagonal, Dense
    >>> BlockDiagonal(Dense(torch.ones(1, 2)), Dense(torch.full((1, 1), 3.0))).dense().tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]]

    Args:
        blocks: at least one, of one dtype and device.
    """

    blocks: nn.ModuleList

    def __init__(self, *blocks: Matrix) -> None:
        super().__init__()
        if not blocks:
            raise ClisonixError("A matrix of no blocks has no shape; give at least one.")
        check_alike(blocks, "put together")
        self.blocks = nn.ModuleList(blocks)
        self._rows = [block.shape[0] for block in blocks]
        self._columns = [block.shape[1] for block in blocks]
        self._size = sum(self._rows), sum(self._columns)
        # Stacking copies the blocks, which takes less time than their single products only while they are small.
        self._stacks = blocks_alike(blocks) and sum(map(work, blocks)) <= SMALL

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, n)
        blocks, sizes = matrices(self.blocks), self._columns
        if self._stacks:
            stacks = stack(blocks)
            return by_row_blocks(lambda rows: _chain(rows, [w.mT for w in reversed(stacks)]), x, m, 2 * m)

        def each(rows: Tensor) -> Tensor:
            parts = torch.split(rows, sizes, dim=-1)
            return torch.cat([block(part) for block, part in zip(blocks, parts, strict=True)], dim=-1)

        return by_row_blocks(each, x, m, 2 * m)

    def adjoint(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, m)
        blocks, sizes = matrices(self.blocks), self._rows
        if self._stacks:
            stacks = stack(blocks)
            return by_row_blocks(lambda rows: _chain(rows, stacks), x, n, 2 * n)

        def each(rows: Tensor) -> Tensor:
            parts = torch.split(rows, sizes, dim=-1)
            return torch.cat([block.adjoint(part) for block, part in zip(blocks, parts, strict=True)], dim=-1)

        return by_row_blocks(each, x, n, 2 * n)

    def dense(self) -> Tensor:
        return block_diagonal(*[block.dense() for block in matrices(self.blocks)])

    def _first_float(self) -> Tensor:
        return matrices(self.blocks)[0]._first_float()


class Batch(Matrix):
    """`g` dense blocks of one size along the diagonal, multiplied in one batched product.

    The weight of a grouped convolution is one of these. Blocks of low rank are a product of two:

    >>> import torch
    >>> from clisonix.liam import Batch
    >>> left, right = torch.rand(8, 16, 2), torch.rand(8, 2, 32)
    >>> a = Batch(left) @ Batch(right)
    >>> a.shape, torch.allclose(a.dense(), torch.block_diag(*(left @ right)))
    ((128, 256), True)

    Args:
        weight: `(g, m, n)`, a matrix of shape `(g·m, g·n)`. A plain tensor becomes a parameter (detached); a
            parameter is shared.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = as_parameter(weight, "weight", 3)

    @property
    def shape(self) -> tuple[int, int]:
        g, m, n = self.weight.shape
        return g * m, g * n

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        m, n = self.shape
        check_input(x, -1, self, n, weight)
        return by_row_blocks(lambda rows: _batched(rows, weight.mT), x, m, 2 * m)

    def adjoint(self, x: Tensor) -> Tensor:
        weight = self.weight
        m, n = self.shape
        check_input(x, -1, self, m, weight)
        return by_row_blocks(lambda rows: _batched(rows, weight), x, n, 2 * n)

    def dense(self) -> Tensor:
        return block_diagonal(*self.weight) if self.weight.shape[0] else self.weight.new_zeros(0, 0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.weight.shape[0]} blocks"


def blocks_alike(blocks: Sequence[Matrix]) -> bool:
    """Whether `stack` takes `blocks`: all dense, or all of low rank in plain tensors, and of one size."""
    if all(type(block) is Dense for block in blocks):
        return len({block.shape for block in blocks}) == 1
    plain = [block for block in blocks if isinstance(block, LowRank) and not block.packed]
    return len(plain) == len(blocks) and len({(block.shape, block.rank) for block in plain}) == 1


def stack(blocks: Sequence[Matrix]) -> list[Tensor]:
    """One tensor `(g, m, n)` of dense blocks, or two of blocks of low rank, whose product they are."""
    if isinstance(blocks[0], Dense):
        return [torch.stack([block.dense() for block in blocks])]
    plain = [block for block in blocks if isinstance(block, LowRank)]
    return [torch.stack([block.left for block in plain]), torch.stack([block.right for block in plain])]


@work.register
def _(matrix: BlockDiagonal) -> int:
    return sum(map(work, matrices(matrix.blocks)))


@work.register
def _(matrix: Batch) -> int:
    return matrix.weight.numel()


def block_diagonal(*blocks: Tensor) -> Tensor:
    """`torch.block_diag`, typed."""
    return torch.block_diag(*blocks)  # type: ignore[no-any-return, no-untyped-call]


def _chain(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    for weight in weights:
        x = _batched(x, weight)
    return x


def _batched(x: Tensor, weight: Tensor) -> Tensor:
    """Each `n` columns of `x (..., g·n)` times their block of `weight (g, n, m)`: `(..., g·m)`."""
    g, n, m = weight.shape
    # The blocks go first, as torch's batched product wants them; all leading axes of x become its rows.
    parts = x.reshape(math.prod(x.shape[:-1]), g, n).transpose(0, 1)
    return torch.bmm(parts, weight).transpose(0, 1).reshape(*x.shape[:-1], g * m)
