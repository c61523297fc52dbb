"""Matrices of a given form before they have values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.twofour import kept_columns, pack_places
from clisonix.liam.binary import Binary
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.latent import LatentBinary, LatentTernary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Sum, Transpose
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse

if TYPE_CHECKING:
    from clisonix.compress.forms import Form, Shape


def blank(form: Form, shape: Shape, dtype: torch.dtype, device: torch.device) -> Matrix:
    """A matrix of `form` whose floats are zero; the places of a sparse one are spread evenly over its rows.

    Raises:
        ClisonixError: the form is "keep".
    """
    return _Blank(dtype, device).of(form, shape)


class _Blank:
    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device

    def of(self, form: Form, shape: Shape) -> Matrix:
        m, n = shape
        parts = [self.of(part, size) for part, size in zip(form.parts, form.part_shapes(shape), strict=True)]
        match form.kind:
            case "dense":
                return Dense(self.zeros(m, n))
            case "diagonal":
                return Diagonal(self.zeros(n))
            case "lowrank":
                return self.lowrank(form, shape, parts)
            case "integer":
                return self.integer(shape, form.bits or 0, form.group or 0)
            case "ternary":
                return Ternary(self.bytes(2, m, -(-n // 8)), self.zeros(m, min(n, 1)), n)
            case "binary":
                return self.binary(m, n)
            case "double binary":
                rank = form.rank or 0
                return Product(self.binary(m, rank), self.binary(rank, n), Diagonal(self.zeros(n)))
            case "sparse":
                return Sparse(self.zeros(form.nnz or 0), *self.places(form.nnz or 0, m, n), n)
            case "two of four":
                return self.two_of_four(m, n)
            case "block sparse":
                br, bc = form.block or (1, 1)
                places = self.places(form.nnz or 0, -(-m // br), -(-n // bc))
                return BlockSparse(self.zeros(form.nnz or 0, br, bc), *places, shape)
            case "latent binary":
                return LatentBinary(self.zeros(m, n), self.zeros(m))
            case "latent ternary":
                return LatentTernary(self.zeros(m, n), self.zeros(m, min(n, 1)))
            case "transpose":
                return Transpose(parts[0])
            case "sum":
                return Sum(*parts)
            case "product":
                return Product(*parts)
        raise ClisonixError(f"the form {form.kind!r} has no matrix of its own; leave the weight as it is")

    def lowrank(self, form: Form, shape: Shape, parts: list[Matrix]) -> LowRank:
        (m, n), rank = shape, form.rank or 0
        if parts:
            return LowRank(*parts)
        if form.bits is None:
            return LowRank(self.zeros(m, rank), self.zeros(rank, n))
        left, right = form.group or rank, form.group or max(n, 1)
        return LowRank(self.integer((m, rank), form.bits, left), self.integer((rank, n), form.bits, right))

    def integer(self, shape: Shape, bits: int, group: int) -> Integer:
        m, n = shape
        return Integer(self.bytes(bits, m, -(-n // 8)), self.zeros(m, -(-n // group)), n, group)

    def binary(self, m: int, n: int) -> Binary:
        return Binary(self.bytes(m, -(-n // 8)), self.zeros(m), n)

    def two_of_four(self, m: int, n: int) -> SemiSparse:
        kept = kept_columns(n)
        if self.device.type == "meta":
            return SemiSparse(self.zeros(m, kept), self.bytes(m, -(-kept // 4)), n)
        first = torch.arange(kept, device=self.device, dtype=torch.uint8) % 2
        return SemiSparse(self.zeros(m, kept), pack_places(first.expand(m, kept).contiguous()), n)

    def places(self, count: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """`crow` and `col` of `count` places, of the type in which sparse matrices keep them."""
        index = torch.int32 if max(rows, columns, count) < 2**31 else torch.int64
        if self.device.type == "meta":
            return self.tensor(index, rows + 1), self.tensor(index, count)
        crow = torch.arange(rows + 1, device=self.device) * count // max(rows, 1)
        begin = crow[:-1].repeat_interleave(crow.diff(), output_size=count)
        col = torch.arange(count, device=self.device) - begin
        return crow.to(index), col.to(index)

    def zeros(self, *shape: int) -> Tensor:
        return self.tensor(self.dtype, *shape)

    def bytes(self, *shape: int) -> Tensor:
        return self.tensor(torch.uint8, *shape)

    def tensor(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)
