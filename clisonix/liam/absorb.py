"""What a matrix can take in without changing its form: scales of rows and columns, a choice of places.

Every function returns a new, detached matrix of the same form, or None where the form cannot express it or
the numbers would leave the range of its dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clisonix.kernels.twofour import columns_of
from clisonix.liam.binary import Binary
from clisonix.liam.blockdiagonal import Batch, BlockDiagonal
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.cat import Cat
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.integer import Integer
from clisonix.liam.latent import Latent
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Sum, Transpose, matrices
from clisonix.liam.rebuild import replaced
from clisonix.liam.selection import Selection, is_all, pick
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse, row_numbers


def scale_rows(matrix: Matrix, scales: Tensor) -> Matrix | None:
    """`diag(scales) @ matrix`.

    Args:
        matrix: `(m, n)`.
        scales: `(m,)`.
    """
    match matrix:
        case Diagonal():
            return _with(matrix, entries=times(matrix.entries, scales))
        case Dense():
            return _with(matrix, weight=times(matrix.weight, scales[:, None]))
        case Binary():
            return _with(matrix, scales=times(matrix.scales, scales))
        case Integer():
            return _with(matrix, scales=times(matrix.scales, scales[:, None]))
        case Latent():
            return _with(matrix, scales=times(matrix.scales, scales if matrix.scales.ndim == 1 else scales[:, None]))
        case Sparse():
            return _with(matrix, values=times(matrix.values, scales[row_numbers(matrix.crow, matrix.col)]))
        case SemiSparse():
            return _with(matrix, values=times(matrix.values, scales[:, None]))
        case BlockSparse():
            parts = _by_blocks(scales, matrix.block[0])[row_numbers(matrix.crow, matrix.col)]
            return _with(matrix, values=times(matrix.values, parts[:, :, None]))
        case Batch():
            return _with(matrix, weight=times(matrix.weight, scales.view(*matrix.weight.shape[:2], 1)))
        case LowRank() if matrix.packed:
            left, right = matrix.factors
            scaled = scale_rows(left, scales)
            return None if scaled is None else LowRank(scaled, right)
        case LowRank():
            return _with(matrix, left=times(matrix.left, scales[:, None]))
        case Transpose():
            inner = scale_columns(matrix.inner, scales)
            return None if inner is None else inner.T
        case Sum():
            return _all(Sum, [scale_rows(term, scales) for term in matrices(matrix.terms)])
        case BlockDiagonal():
            return _all(BlockDiagonal, _each(scale_rows, matrices(matrix.blocks), scales, side=0))
        case Cat() if matrix.dim == 0:
            return _all(Cat, _each(scale_rows, matrices(matrix.blocks), scales, side=0))
        case Cat():
            return _all(lambda *b: Cat(*b, dim=1), [scale_rows(b, scales) for b in matrices(matrix.blocks)])
    return None


def scale_columns(matrix: Matrix, scales: Tensor) -> Matrix | None:
    """`matrix @ diag(scales)`.

    Args:
        matrix: `(m, n)`.
        scales: `(n,)`.
    """
    match matrix:
        case Diagonal():
            return scale_rows(matrix, scales)
        case Dense():
            return _with(matrix, weight=times(matrix.weight, scales))
        case Integer():
            # The columns of a group share their scale, so it can only take in one factor.
            group = min(matrix.group, max(matrix.columns, 1))
            firsts = scales[::group]
            if not torch.equal(firsts.repeat_interleave(group)[: matrix.columns], scales):
                return None
            return _with(matrix, scales=times(matrix.scales, firsts))
        case Binary() | Latent():
            if scales.numel() == 0 or bool((scales != scales[0]).any()):
                return None
            return scale_rows(matrix, scales[:1].expand(matrix.shape[0]))
        case Sparse():
            return _with(matrix, values=times(matrix.values, scales[matrix.col.long()]))
        case SemiSparse():
            columns = columns_of(matrix.places, matrix.columns).long()
            return _with(matrix, values=times(matrix.values, scales[columns]))
        case BlockSparse():
            parts = _by_blocks(scales, matrix.block[1])[matrix.col.long()]
            return _with(matrix, values=times(matrix.values, parts[:, None, :]))
        case Batch():
            g, _, n = matrix.weight.shape
            return _with(matrix, weight=times(matrix.weight, scales.view(g, 1, n)))
        case LowRank() if matrix.packed:
            left, right = matrix.factors
            scaled = scale_columns(right, scales)
            return None if scaled is None else LowRank(left, scaled)
        case LowRank():
            return _with(matrix, right=times(matrix.right, scales))
        case Transpose():
            inner = scale_rows(matrix.inner, scales)
            return None if inner is None else inner.T
        case Sum():
            return _all(Sum, [scale_columns(term, scales) for term in matrices(matrix.terms)])
        case BlockDiagonal():
            return _all(BlockDiagonal, _each(scale_columns, matrices(matrix.blocks), scales, side=1))
        case Cat() if matrix.dim == 1:
            blocks = _each(scale_columns, matrices(matrix.blocks), scales, side=1)
            return _all(lambda *b: Cat(*b, dim=1), blocks)
        case Cat():
            return _all(Cat, [scale_columns(block, scales) for block in matrices(matrix.blocks)])
    return None


def take(matrix: Matrix, rows: Selection, columns: Selection) -> Matrix | None:
    """`matrix[rows, columns]` stored on its own."""
    all_rows, all_columns = is_all(rows, matrix.shape[0]), is_all(columns, matrix.shape[1])
    match matrix:
        case Dense():
            return Dense(_own(_own(matrix.weight, rows, 0), columns, 1))
        case LowRank() if matrix.packed:
            left, right = matrix.factors
            middle = range(matrix.rank)
            taken = take(left, rows, middle), take(right, middle, columns)
            return None if taken[0] is None or taken[1] is None else LowRank(taken[0], taken[1])
        case LowRank():
            return LowRank(_own(matrix.left, rows, 0), _own(matrix.right, columns, 1))
        case Binary() if all_columns:
            return _with(matrix, packed=_own(matrix.by_row(), rows, 0), scales=_own(matrix.scales, rows, 0))
        case Integer() if all_columns:
            return _with(matrix, planes=_own(matrix.by_row(), rows, 1), scales=_own(matrix.scales, rows, 0))
        case Latent() if all_columns:
            return _with(matrix, latent=_own(matrix.latent, rows, 0), scales=_own(matrix.scales, rows, 0))
        case SemiSparse() if all_columns:
            return _with(matrix, values=_own(matrix.values, rows, 0), places=_own(matrix.places, rows, 0))
        case Sparse():
            places = [_places(rows, matrix.device), _places(columns, matrix.device)]
            coo = matrix.coo().detach().index_select(0, places[0]).index_select(1, places[1])
            return Sparse.from_tensor(coo)
        case Transpose():
            inner = take(matrix.inner, columns, rows)
            return None if inner is None else inner.T
        case Sum():
            return _all(Sum, [take(term, rows, columns) for term in matrices(matrix.terms)])
        case Cat() if matrix.dim == 0 and all_rows:
            return _all(Cat, [take(b, range(b.shape[0]), columns) for b in matrices(matrix.blocks)])
        case Cat() if matrix.dim == 1 and all_columns:
            blocks = [take(b, rows, range(b.shape[1])) for b in matrices(matrix.blocks)]
            return _all(lambda *b: Cat(*b, dim=1), blocks)
    return None


def times(values: Tensor, scales: Tensor) -> Tensor | None:
    """`values * scales` rounded once to the dtype of `values`; None if that loses a number to its range."""
    wide = values.double() * scales.double()
    return narrowed(wide, values.dtype)


def narrowed(wide: Tensor, dtype: torch.dtype) -> Tensor | None:
    """`wide` in `dtype`; None if a number becomes infinite, or so small that it loses digits."""
    limits = torch.finfo(dtype)
    sizes = wide.abs()
    lost = (sizes > limits.max) & sizes.isfinite() | (sizes < limits.tiny) & (sizes > 0)
    return None if bool(lost.any()) else wide.to(dtype)


def _with(leaf: Matrix, **tensors: Tensor | None) -> Matrix | None:
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return replaced(leaf, **present) if len(present) == len(tensors) else None


def _all(make: Callable[..., Matrix], parts: list[Matrix | None]) -> Matrix | None:
    return None if any(part is None for part in parts) else make(*parts)


def _each(
    scale: Callable[[Matrix, Tensor], Matrix | None], blocks: list[Matrix], scales: Tensor, *, side: int
) -> list[Matrix | None]:
    parts = torch.split(scales, [block.shape[side] for block in blocks])
    return [scale(block, part) for block, part in zip(blocks, parts, strict=True)]


def _by_blocks(scales: Tensor, size: int) -> Tensor:
    """`scales (n,)` as `(blocks, size)`, the last filled up with ones."""
    return torch.nn.functional.pad(scales, (0, -scales.numel() % size), value=1.0).view(-1, size)


def _own(x: Tensor, selection: Selection, dim: int) -> Tensor:
    return pick(x, selection, dim).detach().clone(memory_format=torch.contiguous_format)


def _places(selection: Selection, device: torch.device) -> Tensor:
    if isinstance(selection, Tensor):
        return selection
    return torch.arange(selection.start, selection.stop, selection.step, device=device)
