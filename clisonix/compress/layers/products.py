"""Products with a matrix kept in another precision than what it multiplies, and some of its rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.kernels.binary import binary_matmul, binary_matmul_t, unpack_signs
from clisonix.kernels.integer import integer_dense, integer_matmul, integer_matmul_t
from clisonix.kernels.planes_reference import by_row
from clisonix.kernels.twofour import columns_of
from clisonix.liam.binary import Binary
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Sum, Transpose, matrices, total
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse

# Rows of the identity that stand in for a form without a way to its own rows: 4M numbers at a time.
_ONES = 1 << 22


def times(matrix: Matrix, x: Tensor) -> Tensor:
    """`x @ matrix.dense().T` in the dtype of `x`, or in what autocast says."""
    if x.dtype is matrix.dtype or torch.is_autocast_enabled(x.device.type):
        return matrix(x)  # type: ignore[no-any-return]
    return _times(matrix, x)


def times_t(matrix: Matrix, x: Tensor) -> Tensor:
    """`x @ matrix.dense()`, otherwise as `times`."""
    if x.dtype is matrix.dtype or torch.is_autocast_enabled(x.device.type):
        return matrix.adjoint(x)
    return _times_t(matrix, x)


def _times(matrix: Matrix, x: Tensor) -> Tensor:
    """Stored numbers are converted rather than `x`: they are fewer, and nothing of `x` is rounded away."""
    match matrix:
        case Integer():
            return integer_matmul(x, matrix.planes, matrix.scales, matrix.columns, matrix.group, matrix.offset)
        case Binary():
            return binary_matmul(x, matrix.packed, matrix.scales, matrix.columns)
        case Dense():
            return F.linear(x, matrix.weight.to(x.dtype))
        case Diagonal():
            return x * matrix.entries.to(x.dtype)
        case LowRank():
            left, right = factors(matrix)
            if isinstance(left, Tensor) or isinstance(right, Tensor):
                return F.linear(F.linear(x, matrix.right.to(x.dtype)), matrix.left.to(x.dtype))
            return _times(left, _times(right, x))
        case Transpose():
            return _times_t(matrix.T, x)
        case Product():
            for factor in reversed(matrices(matrix.factors)):
                x = _times(factor, x)
            return x
        case Sum():
            return total(_times(term, x) for term in matrices(matrix.terms))
    product: Tensor = matrix(x.to(matrix.dtype))
    return product.to(x.dtype)


def _times_t(matrix: Matrix, x: Tensor) -> Tensor:
    match matrix:
        case Integer():
            return integer_matmul_t(x, matrix.planes, matrix.scales, matrix.columns, matrix.group, matrix.offset)
        case Binary():
            return binary_matmul_t(x, matrix.packed, matrix.scales, matrix.columns)
        case Dense():
            return x @ matrix.weight.to(x.dtype)
        case Diagonal():
            return x * matrix.entries.to(x.dtype)
        case LowRank():
            left, right = factors(matrix)
            if isinstance(left, Tensor) or isinstance(right, Tensor):
                return x @ matrix.left.to(x.dtype) @ matrix.right.to(x.dtype)
            return _times_t(right, _times_t(left, x))
        case Transpose():
            return _times(matrix.T, x)
        case Product():
            for factor in matrices(matrix.factors):
                x = _times_t(factor, x)
            return x
        case Sum():
            return total(_times_t(term, x) for term in matrices(matrix.terms))
    return matrix.adjoint(x.to(matrix.dtype)).to(x.dtype)


def factors(matrix: LowRank) -> tuple[Tensor, Tensor] | tuple[Matrix, Matrix]:
    """Both factors as they are held: no matrix is made of a tensor, which a compiler would trip over."""
    return matrix.factors if matrix.packed else (matrix.left, matrix.right)


def rows(matrix: Matrix, index: Tensor, dtype: torch.dtype) -> Tensor:
    """`matrix.dense()[index]` in `dtype` without the other rows, for `index (k,)`: `(k, n)`, differentiable.

    Raises:
        IndexError: a place outside the matrix (on a GPU a device-side assertion, as of `nn.Embedding`).
    """
    match matrix:
        case Dense():
            return F.embedding(index, matrix.weight).to(dtype)
        case Integer():
            planes, scales = matrix.bits_of(index), matrix.scales.index_select(0, index)
            return integer_dense(planes, scales.to(dtype), matrix.columns, matrix.group, matrix.offset)
        case Binary():
            signs = unpack_signs(matrix.bits_of(index), matrix.columns, dtype)
            return signs * matrix.scales.index_select(0, index).to(dtype)[:, None]
        case LowRank():
            left, right = factors(matrix)
            if isinstance(left, Tensor) or isinstance(right, Tensor):
                return F.embedding(index, matrix.left).to(dtype) @ matrix.right.to(dtype)
            return times_t(right, rows(left, index, dtype))
        case Product():
            first, *others = matrices(matrix.factors)
            found = rows(first, index, dtype)
            for factor in others:
                found = times_t(factor, found)
            return found
        case Sum():
            return total(rows(term, index, dtype) for term in matrices(matrix.terms))
        case SemiSparse():
            columns = columns_of(matrix.places.index_select(0, index), matrix.columns).long()
            values = matrix.values.index_select(0, index)
            return values.new_zeros(len(index), matrix.columns).scatter(1, columns, values).to(dtype)
        case Sparse():
            return _sparse_rows(matrix, index).to(dtype)
        case Transpose() if isinstance(matrix.T, Integer):
            return _integer_columns(matrix.T, index).to(dtype)
    step = max(1, _ONES // max(matrix.shape[0], 1))
    parts = [matrix.adjoint(F.one_hot(part, matrix.shape[0]).to(matrix.dtype)) for part in torch.split(index, step)]
    return torch.cat(parts).to(dtype)


def _sparse_rows(matrix: Sparse, index: Tensor) -> Tensor:
    starts, ends = matrix.crow.index_select(0, index).long(), matrix.crow.index_select(0, index + 1).long()
    counts = ends - starts
    row = torch.arange(len(index), device=index.device).repeat_interleave(counts)
    place = torch.arange(len(row), device=index.device) + (starts - counts.cumsum(0) + counts)[row]
    zeros = matrix.values.new_zeros(len(index), matrix.columns)
    return zeros.index_put((row, matrix.col[place].long()), matrix.values[place])


def _integer_columns(matrix: Integer, index: Tensor) -> Tensor:
    """Columns of `matrix` as rows `(k, m)`: the factors of a rounded low rank lie this way."""
    octets = by_row(matrix.planes.index_select(2, index // 8))  # (bits, m, k)
    bits = (octets >> (index % 8).to(torch.uint8)) & 1
    weights = (1 << torch.arange(matrix.bits, device=index.device)).view(-1, 1, 1)
    levels = (bits * weights).sum(0) - matrix.offset
    return (levels.to(matrix.dtype) * matrix.scales.index_select(1, index // matrix.group)).mT
