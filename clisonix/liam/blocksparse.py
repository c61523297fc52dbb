"""A matrix that stores only some of its blocks, each dense."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t
from clisonix.kernels.sparse_torch import hear_beta_warning_once
from clisonix.liam.association import work
from clisonix.liam.compressed import row_starts
from clisonix.liam.matrix import Matrix, as_parameter, check_dense_float, check_input
from clisonix.liam.scores import check_density, most_important
from clisonix.liam.sparse import check_places, row_numbers


class BlockSparse(Matrix):
    """Compressed rows of blocks. The values learn; the places of the blocks are fixed.

    Blocks at the right and lower edge may reach beyond the matrix. What they hold there counts for nothing.
    The attribute `backend` pins what computes its products, as for `Sparse`.

    Args:
        values: `(blocks, br, bc)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        crow: `(ceil(m / br) + 1,)`, int32 or int64: the blocks of block row `i` are `crow[i]` up to `crow[i + 1]`.
        col: `(blocks,)`, of the type of `crow`: the block column of each, without repeats in a row.
        shape: `(m, n)`.
    """

    crow: Tensor
    col: Tensor
    backend: str = ""

    def __init__(self, values: Tensor, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.values = as_parameter(values, "values", 3)
        self.register_buffer("crow", crow.contiguous())
        self.register_buffer("col", col.contiguous())
        self.rows, self.columns = shape
        if 0 in self.block:
            raise ClisonixError(f"values is {tuple(values.shape)}: blocks without entries; give (blocks, br, bc).")
        _check(self)
        self.register_load_state_dict_post_hook(_check)  # type: ignore[no-untyped-call]

    @classmethod
    @torch.no_grad()
    def from_tensor(cls, tensor: Tensor, block: int | tuple[int, int] = 16) -> BlockSparse:
        """The blocks of a dense tensor `(m, n)` that are not all zero, or the blocks of a BSR tensor; detached.

        Args:
            tensor: dense or of the layout `torch.sparse_bsr`, whose own blocks are kept.
            block: size of the blocks of a dense tensor.
        """
        if tensor.layout == torch.sparse_bsr:
            shape = (tensor.shape[0], tensor.shape[1])
            crow, col = tensor.crow_indices(), tensor.col_indices()
            index = _index_type(col.numel())
            return cls(tensor.values(), crow.to(index), col.to(index), shape)
        check_dense_float(tensor, "tensor", 2)
        blocks = _blocks(tensor, *_sides(block))
        return cls._keep(blocks, (blocks != 0).any(-1).any(-1), (tensor.shape[0], tensor.shape[1]))

    @classmethod
    @torch.no_grad()
    def largest(
        cls, weight: Tensor, density: float, block: int | tuple[int, int] = 16, moments: Tensor | None = None
    ) -> BlockSparse:
        """The `density` part of the blocks of `weight` that matters most: those with the largest norms, detached.

        Args:
            weight: `(m, n)`, finite floating point. Blocks at the edges are filled up with zeros.
            density: fraction of the blocks to keep, in [0, 1], rounded to the nearest number of them. A kept block
                that is all zero takes no place.
            block: size of the blocks, one number or `(br, bc)`.
            moments: second moments of the inputs, `(n,)` or `(n, n)`; see `clisonix.liam.scores`.
        """
        sides = _sides(block)
        norms = _blocks(most_important(weight, moments), *sides).square().sum((-1, -2))
        kept = norms.flatten().topk(check_density(density, norms.numel())).indices
        keep = torch.zeros_like(norms, dtype=torch.bool).flatten().index_fill(0, kept, True).view(norms.shape)
        blocks = _blocks(weight, *sides)
        keep &= (blocks != 0).any(-1).any(-1)
        return cls._keep(blocks, keep, (weight.shape[0], weight.shape[1]))

    @classmethod
    def _keep(cls, blocks: Tensor, keep: Tensor, shape: tuple[int, int]) -> BlockSparse:
        rows, col = keep.nonzero(as_tuple=True)
        crow = row_starts(rows, keep.shape[0])
        index = _index_type(col.numel())
        return cls(blocks[rows, col], crow.to(index), col.to(index), shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self.values.shape[1], self.values.shape[2]

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.columns, self.values)
        return sparse_matmul(x, self.values, self.crow, self.col, self.shape, self.backend)

    def adjoint(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.rows, self.values)
        return sparse_matmul_t(x, self.values, self.crow, self.col, self.shape, self.backend)

    def dense(self) -> Tensor:
        (br, bc), block_rows = self.block, self.crow.shape[0] - 1
        zeros = self.values.new_zeros(block_rows, -(-self.columns // bc), br, bc)
        places = row_numbers(self.crow, self.col), self.col.long()
        blocks = zeros.index_put(places, self.values, accumulate=True)
        return blocks.transpose(1, 2).flatten(2).flatten(0, 1)[: self.rows, : self.columns]

    def bsr(self) -> Tensor:
        """The same blocks as a torch BSR tensor `(m, n)` on the same memory; gradients reach the values.

        Raises:
            ClisonixError: the blocks do not divide the matrix, which torch requires.
        """
        if self.rows % self.block[0] or self.columns % self.block[1]:
            raise ClisonixError(
                f"A matrix of shape {self.shape} with blocks of {self.block} has no BSR tensor in torch, whose "
                "blocks divide the matrix; use .dense()."
            )
        hear_beta_warning_once()
        return torch.sparse_bsr_tensor(self.crow, self.col, self.values, self.shape, check_invariants=False)

    def extra_repr(self) -> str:
        br, bc = self.block
        return f"{super().extra_repr()}, {self.values.shape[0]} blocks of {br}×{bc}"


@work.register
def _(matrix: BlockSparse) -> int:
    return matrix.values.numel()


def _sides(block: int | tuple[int, int]) -> tuple[int, int]:
    br, bc = (block, block) if isinstance(block, int) else block
    if br < 1 or bc < 1:
        raise ClisonixError(f"block={block!r} is no size; give whole numbers of 1 or more.")
    return br, bc


def _blocks(weight: Tensor, br: int, bc: int) -> Tensor:
    """`(m, n)` as `(block rows, block columns, br, bc)`, filled up with zeros."""
    m, n = weight.shape
    full = torch.nn.functional.pad(weight, (0, -n % bc, 0, -m % br))
    return full.view(-(-m // br), br, -(-n // bc), bc).transpose(1, 2)


def _index_type(count: int) -> torch.dtype:
    return torch.int32 if count < 2**31 else torch.int64


def _check(module: nn.Module, _incompatible: object = None) -> None:
    matrix = cast(BlockSparse, module)
    br, bc = matrix.block
    check_places(matrix.crow, matrix.col, matrix.values.shape[0], -(-matrix.columns // bc))
    if matrix.crow.shape[0] - 1 != -(-matrix.rows // br):
        raise ClisonixError(
            f"crow has {matrix.crow.shape[0]} entries, but {matrix.rows} rows in blocks of {br} need one more than "
            f"{-(-matrix.rows // br)} block rows."
        )
