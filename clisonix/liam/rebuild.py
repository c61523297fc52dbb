"""The same matrix made of other parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from clisonix.liam.blockdiagonal import BlockDiagonal
from clisonix.liam.cat import Cat
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose, matrices
from clisonix.liam.slicing import Slice

M = TypeVar("M", bound=Matrix)


def rebuild(matrix: Matrix, change: Callable[[Matrix], Matrix]) -> Matrix:
    """The node `matrix` with `change` of each of its parts; itself if it has none or they all stay the same.

    Tensors that a node holds beside its parts are shared with the old one.
    """

    def each(modules: nn.ModuleList) -> list[Matrix]:
        return [change(part) for part in matrices(modules)]

    def differ(new: list[Matrix], old: nn.ModuleList) -> bool:
        return any(a is not b for a, b in zip(new, old, strict=True))

    match matrix:
        case Sum() if differ(parts := each(matrix.terms), matrix.terms):
            return Sum(*parts)
        case Product() if differ(parts := each(matrix.factors), matrix.factors):
            return Product(*parts)
        case Cat() if differ(parts := each(matrix.blocks), matrix.blocks):
            return Cat(*parts, dim=matrix.dim)
        case BlockDiagonal() if differ(parts := each(matrix.blocks), matrix.blocks):
            return BlockDiagonal(*parts)
        case LowRank() if matrix.packed:
            left, right = map(change, matrix.factors)
            return matrix if (left, right) == matrix.factors else LowRank(left, right)
        case Transpose() if (inner := change(matrix.inner)) is not matrix.inner:
            return inner.T
        case Scaled() if (inner := change(matrix.inner)) is not matrix.inner:
            return Scaled(inner, matrix.scale)
        case Slice() if (inner := change(matrix.inner)) is not matrix.inner:
            return Slice(inner, matrix.rows, matrix.columns)
    return matrix


def replaced(leaf: M, **tensors: Tensor) -> M:
    """A copy of `leaf` with some of its tensors replaced and the others shared; sizes must still agree."""
    clone = copy.copy(leaf)
    clone._parameters = {
        name: nn.Parameter(tensors[name].contiguous()) if name in tensors else old
        for name, old in leaf._parameters.items()
    }
    clone._buffers = {
        name: tensors[name].contiguous() if name in tensors else old for name, old in leaf._buffers.items()
    }
    return clone
