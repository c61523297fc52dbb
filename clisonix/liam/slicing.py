"""Some rows and columns of a matrix, computed without the others where its form allows."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import binary_matmul, binary_matmul_t
from clisonix.kernels.integer import integer_matmul, integer_matmul_t
from clisonix.liam.association import work
from clisonix.liam.binary import Binary
from clisonix.liam.blockdiagonal import BlockDiagonal
from clisonix.liam.cat import Cat
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix, check_size
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose, matrices, total
from clisonix.liam.rowblocks import by_row_blocks
from clisonix.liam.selection import Key, Selection, is_all, narrow, pick, put, select, shares


class Slice(Matrix):
    """`inner[rows, columns]`, usually made by indexing.

    Sums pass the selection on to their terms, products to their outer factors; `Dense` and `LowRank` multiply
    by the selected part only, and packed forms leave out rows that are not wanted. Other forms multiply
    whole, with zeros at the columns left out. A range of blocks is made of their parts, and is no `Slice`.

    Args:
        inner: the matrix; its tensors are shared.
        rows: a rising range, or a vector of places, which may repeat.
        columns: the same.
    """

    def __init__(self, inner: Matrix, rows: Selection, columns: Selection) -> None:
        super().__init__()
        self.inner = inner
        self._size = len(rows), len(columns)
        self.rows = self._keep("rows", rows)
        self.columns = self._keep("columns", columns)
        # Products trust the places, so a damaged file must not get past loading.
        self.register_load_state_dict_post_hook(_check_places)  # type: ignore[no-untyped-call]

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, n)
        inner, rows, columns = self.inner, self.rows, self.columns
        return by_row_blocks(lambda part: _forward(inner, part, rows, columns), x, m, sum(inner.shape) + m)

    def adjoint(self, x: Tensor) -> Tensor:
        m, n = self._size
        check_size(x, -1, self, m)
        inner, rows, columns = self.inner, self.rows, self.columns
        return by_row_blocks(lambda part: _adjoint(inner, part, rows, columns), x, n, sum(inner.shape) + n)

    def dense(self) -> Tensor:
        return _dense(self.inner, self.rows, self.columns)

    def _first_float(self) -> Tensor:
        return self.inner._first_float()

    def _keep(self, name: str, selection: Selection) -> Selection:
        """A vector of places is part of the matrix and of its file; a range is only its shape."""
        if isinstance(selection, Tensor):
            self.register_buffer(name, selection)
        return selection


def part(matrix: Matrix, key: Key | tuple[Key, Key]) -> Matrix:
    """`matrix[key]`; see `Matrix.__getitem__`."""
    keys = key if isinstance(key, tuple) else (key, slice(None))
    if len(keys) != 2:
        raise ClisonixError(f"A matrix {matrix.shape} has rows and columns; {len(keys)} indices were given.")
    sides = zip(("rows", "columns"), keys, matrix.shape, strict=True)
    rows, columns = (select(k, size, matrix.device, side) for side, k, size in sides)
    return part_of(matrix, rows, columns)


def part_of(matrix: Matrix, rows: Selection, columns: Selection) -> Matrix:
    """`matrix[rows, columns]` in the form that computes it with least; itself where everything is selected."""
    if is_all(rows, matrix.shape[0]) and is_all(columns, matrix.shape[1]):
        return matrix
    match matrix:
        case Slice():
            return part_of(matrix.inner, narrow(matrix.rows, rows), narrow(matrix.columns, columns))
        case Transpose():
            return part_of(matrix.inner, columns, rows).T
        case Cat() if isinstance(rows, range) and isinstance(columns, range):
            return _part_of_cat(matrix, rows, columns)
        case BlockDiagonal() if isinstance(rows, range) and isinstance(columns, range):
            blocks = matrices(matrix.blocks)
            own_rows = shares(rows, [block.shape[0] for block in blocks])
            own_columns = shares(columns, [block.shape[1] for block in blocks])
            return BlockDiagonal(*map(part_of, blocks, own_rows, own_columns))
    return Slice(matrix, rows, columns)


def _part_of_cat(matrix: Cat, rows: range, columns: range) -> Matrix:
    blocks = matrices(matrix.blocks)
    own = shares(columns if matrix.dim else rows, [block.shape[matrix.dim] for block in blocks])
    # Something must tell the size of the other side, even where nothing is selected.
    met = [i for i, places in enumerate(own) if places] or [0]
    if matrix.dim:
        parts = [part_of(blocks[i], rows, own[i]) for i in met]
    else:
        parts = [part_of(blocks[i], own[i], columns) for i in met]
    return parts[0] if len(parts) == 1 else Cat(*parts, dim=matrix.dim)


def _forward(matrix: Matrix, x: Tensor, rows: Selection, columns: Selection) -> Tensor:
    """`x @ matrix[rows, columns].T`."""
    match matrix:
        case Dense():
            return F.linear(x, pick(pick(matrix.weight, rows, 0), columns, 1))
        case LowRank() if not matrix.packed:
            return F.linear(F.linear(x, pick(matrix.right, columns, 1)), pick(matrix.left, rows, 0))
        case LowRank():
            (left, right), middle = matrix.factors, range(matrix.rank)
            return _forward(left, _forward(right, x, middle, columns), rows, middle)
        case Sum():
            return total(_forward(term, x, rows, columns) for term in matrices(matrix.terms))
        case Product():
            factors = matrices(matrix.factors)
            for i in range(len(factors) - 1, -1, -1):
                x = _forward(factors[i], x, *_ends(factors, i, rows, columns))
            return x
        case Scaled():
            return _forward(matrix.inner, x, rows, columns) * matrix.scale
        case Transpose():
            return _adjoint(matrix.inner, x, columns, rows)
        case Binary() if not is_all(rows, matrix.shape[0]):
            packed, scales = pick(matrix.by_row(), rows, 0).contiguous(), pick(matrix.scales, rows, 0)
            return binary_matmul(put(x, columns, matrix.columns), packed, scales, matrix.columns)
        case Integer() if not is_all(rows, matrix.shape[0]):
            planes, scales = pick(matrix.by_row(), rows, 1).contiguous(), pick(matrix.scales, rows, 0)
            wide = put(x, columns, matrix.columns)
            return integer_matmul(wide, planes, scales, matrix.columns, matrix.group, matrix.offset)
    return pick(matrix(put(x, columns, matrix.shape[1])), rows, -1)


def _adjoint(matrix: Matrix, x: Tensor, rows: Selection, columns: Selection) -> Tensor:
    """`x @ matrix[rows, columns]`."""
    match matrix:
        case Dense():
            return x @ pick(pick(matrix.weight, rows, 0), columns, 1)
        case LowRank() if not matrix.packed:
            return x @ pick(matrix.left, rows, 0) @ pick(matrix.right, columns, 1)
        case LowRank():
            (left, right), middle = matrix.factors, range(matrix.rank)
            return _adjoint(right, _adjoint(left, x, rows, middle), middle, columns)
        case Sum():
            return total(_adjoint(term, x, rows, columns) for term in matrices(matrix.terms))
        case Product():
            factors = matrices(matrix.factors)
            for i, factor in enumerate(factors):
                x = _adjoint(factor, x, *_ends(factors, i, rows, columns))
            return x
        case Scaled():
            return _adjoint(matrix.inner, x, rows, columns) * matrix.scale
        case Transpose():
            return _forward(matrix.inner, x, columns, rows)
        case Binary() if not is_all(rows, matrix.shape[0]):
            packed, scales = pick(matrix.by_row(), rows, 0).contiguous(), pick(matrix.scales, rows, 0)
            return pick(binary_matmul_t(x, packed, scales, matrix.columns), columns, -1)
        case Integer() if not is_all(rows, matrix.shape[0]):
            planes, scales = pick(matrix.by_row(), rows, 1).contiguous(), pick(matrix.scales, rows, 0)
            whole = integer_matmul_t(x, planes, scales, matrix.columns, matrix.group, matrix.offset)
            return pick(whole, columns, -1)
    return pick(matrix.adjoint(put(x, rows, matrix.shape[0])), columns, -1)


def _dense(matrix: Matrix, rows: Selection, columns: Selection) -> Tensor:
    """`matrix.dense()[rows][:, columns]`."""
    match matrix:
        case LowRank():
            return pick(matrix.left, rows, 0) @ pick(matrix.right, columns, 1)
        case Sum():
            return total(_dense(term, rows, columns) for term in matrices(matrix.terms))
        case Product():
            factors = matrices(matrix.factors)
            ends = [_ends(factors, i, rows, columns) for i in range(len(factors))]
            parts = [part_of(factor, *end) for factor, end in zip(factors, ends, strict=True)]
            return Product(*parts).dense()
        case Scaled():
            return _dense(matrix.inner, rows, columns) * matrix.scale
        case Transpose():
            return _dense(matrix.inner, columns, rows).mT
        case Diagonal():
            places = torch.arange(matrix.shape[0], device=matrix.device)
            chosen = pick(places, rows, 0)[:, None] == pick(places, columns, 0)
            return torch.where(chosen, pick(matrix.entries, rows, 0)[:, None], 0.0)
    return pick(pick(matrix.dense(), rows, 0), columns, 1)


def _ends(factors: list[Matrix], i: int, rows: Selection, columns: Selection) -> tuple[Selection, Selection]:
    """What is selected of factor `i` of a product: rows of the first, columns of the last."""
    m, n = factors[i].shape
    return rows if i == 0 else range(m), columns if i == len(factors) - 1 else range(n)


@work.register
def _(matrix: Slice) -> int:
    m, n = matrix.shape
    return min(m * n, work(matrix.inner))


def _check_places(module: nn.Module, _incompatible: object = None) -> None:
    """Raise unless both vectors of places, as far as there are any, lie inside the matrix."""
    matrix = cast(Slice, module)
    for places, size in zip((matrix.rows, matrix.columns), matrix.inner.shape, strict=True):
        if isinstance(places, Tensor) and places.numel() and not places.is_meta:
            low, high = int(places.min()), int(places.max())
            if low < 0 or high >= size:
                raise ClisonixError(
                    f"Places of a slice must lie in 0..{size - 1}, but reach from {low} to {high}; the matrix was "
                    "loaded from damaged data."
                )
