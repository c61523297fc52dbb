"""The same map in fewer steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from clisonix.liam.absorb import narrowed, scale_columns, scale_rows, take
from clisonix.liam.blockdiagonal import Batch, BlockDiagonal, blocks_alike, stack
from clisonix.liam.cat import Cat
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose, matrices
from clisonix.liam.permutation import Permutation
from clisonix.liam.rebuild import rebuild
from clisonix.liam.slicing import Slice
from clisonix.liam.sparse import Sparse


@torch.no_grad()
def simplify(matrix: Matrix) -> Matrix:
    """The same map, in fewer steps where that takes no more bytes, detached from `matrix`.

    Multiples and neighbouring diagonals become one, or disappear into the scales of what they multiply;
    permutations compose; identities drop out; sums of dense, low-rank, diagonal or sparse terms become one
    term; slices are cut out. Packed levels are never touched, so everything is exact up to the rounding of
    scales, which happens once; where a scale would leave the range of its dtype, the step stays.

    >>> import torch
    >>> from clisonix.liam import Binary, Diagonal, simplify
    >>> d, b = Diagonal(torch.rand(8)), Binary.nearest(torch.randn(8, 8))
    >>> [type(factor).__name__ for factor in simplify(d @ b @ d @ b @ d).factors]
    ['Binary', 'Binary', 'Diagonal']

    Args:
        matrix: any; it is not changed.

    Returns:
        A matrix that shares no tensor with `matrix`, trainable if any parameter of `matrix` is.
    """
    result = _simplify(matrix)
    old = {_memory(tensor) for tensor in (*matrix.parameters(), *matrix.buffers())}
    new = [tensor for tensor in (*result.parameters(), *result.buffers()) if _memory(tensor) not in old]
    # What the memo knows already is not copied once more.
    result = copy.deepcopy(result, {id(tensor): tensor for tensor in new})
    if not any(parameter.requires_grad for parameter in matrix.parameters()):
        result.requires_grad_(False)
    return result


def _simplify(matrix: Matrix) -> Matrix:
    matrix = rebuild(matrix, _simplify)
    match matrix:
        case Transpose():
            return _transposed(matrix.inner)
        case Scaled():
            return _scaled(matrix.inner, matrix.scale.double().reshape(()))
        case Sum():
            return _sum(matrix)
        case Product():
            return _product(matrix)
        case Slice():
            return _slice(matrix)
        case Cat() | BlockDiagonal():
            return _blocks(matrix)
        case LowRank() if matrix.packed and all(isinstance(factor, Dense) for factor in matrix.factors):
            return LowRank(matrix.left.clone(), matrix.right.clone())
    return matrix


def _transposed(matrix: Matrix) -> Matrix:
    match matrix:
        case Diagonal():
            return matrix
        case Dense():
            return Dense(matrix.weight.mT.clone())
        case Batch():
            return Batch(matrix.weight.mT.clone())
        case Permutation():
            return matrix.inverse()
        case LowRank() if matrix.packed:
            left, right = matrix.factors
            return LowRank(_transposed(right), _transposed(left))
        case LowRank():
            return LowRank(matrix.right.mT.clone(), matrix.left.mT.clone())
        case Scaled():
            return _transposed(matrix.inner) * matrix.scale
        case Sum():
            return Sum(*map(_transposed, matrices(matrix.terms)))
        case Product():
            return Product(*map(_transposed, reversed(matrices(matrix.factors))))
        case Cat():
            return Cat(*map(_transposed, matrices(matrix.blocks)), dim=1 - matrix.dim)
        case BlockDiagonal():
            return BlockDiagonal(*map(_transposed, matrices(matrix.blocks)))
        case Slice():
            return Slice(_transposed(matrix.inner), matrix.columns, matrix.rows)
    return matrix.T


def _scaled(matrix: Matrix, scale: Tensor) -> Matrix:
    if float(scale) == 1.0:
        return matrix
    if isinstance(matrix, Scaled):
        return _scaled(matrix.inner, scale * matrix.scale.double())
    if isinstance(matrix, Product):
        factors = matrices(matrix.factors)
        # The smallest factor that can take the scale in has the fewest numbers to round.
        for i in sorted(range(len(factors)), key=lambda i: factors[i].nbytes):
            absorbed = scale_rows(factors[i], scale.expand(factors[i].shape[0]))
            if absorbed is not None:
                return Product(*factors[:i], absorbed, *factors[i + 1 :])
    return scale_rows(matrix, scale.expand(matrix.shape[0])) or matrix * scale.to(matrix.dtype)


def _sum(matrix: Sum) -> Matrix:
    terms = matrices(matrix.terms)
    for i, a in enumerate(terms):
        for j, b in enumerate(terms[:i]):
            both = _add(b, a)
            if both is not None and both.nbytes <= Sum(b, a).nbytes:
                return _sum(Sum(*terms[:j], both, *terms[j + 1 : i], *terms[i + 1 :]))
    return terms[0] if len(terms) == 1 else matrix


def _add(a: Matrix, b: Matrix) -> Matrix | None:
    """`a + b` as one leaf."""
    if isinstance(a, Dense) or isinstance(b, Dense):
        return _dense(a.dense().double() + b.dense().double(), a.dtype)
    match a, b:
        case Diagonal(), Diagonal():
            entries = narrowed(a.entries.double() + b.entries.double(), a.dtype)
            return None if entries is None else Diagonal(entries)
        case Sparse(), Sparse():
            return Sparse.from_tensor(a.coo().detach() + b.coo().detach())
        case LowRank(), LowRank() if not (a.packed or b.packed):
            m, n = a.shape
            if (a.rank + b.rank) * (m + n) <= m * n:
                return LowRank.concatenate([a, b])
            return _add(Dense(a.dense()), b)
    return None


def _product(matrix: Product) -> Matrix:
    scale = torch.ones((), dtype=torch.float64, device=matrix.device)
    done: list[Matrix] = []
    for factor in matrices(matrix.factors):
        if isinstance(factor, Scaled):
            scale, factor = scale * factor.scale.double(), factor.inner
        for part in matrices(factor.factors) if isinstance(factor, Product) else [factor]:
            _append(done, part)
    return _scaled(done[0] if len(done) == 1 else Product(*done), scale)


def _append(done: list[Matrix], factor: Matrix) -> None:
    """Multiply the product of `done` by `factor` from the right, joining neighbours as far as they join."""
    while done:
        if _is_identity(factor):
            return
        joined = factor if _is_identity(done[-1]) else _join(done[-1], factor)
        if joined is None:
            break
        done.pop()
        factor = joined
    done.append(factor)


def _join(a: Matrix, b: Matrix) -> Matrix | None:
    """`a @ b` as one leaf, if that takes no more bytes."""
    match a, b:
        case Diagonal(), _:
            return scale_rows(b, a.entries)
        case _, Diagonal():
            return scale_columns(a, b.entries)
        case Permutation(), Permutation():
            return Permutation(b.index[a.index.long()], a.dtype)
        case Permutation(), _:
            return take(b, a.index, range(b.shape[1]))
        case _, Permutation():
            return take(a, range(a.shape[0]), b.inverse().index)
    joined = _multiplied(a, b)
    return joined if joined is not None and joined.nbytes <= Product(a, b).nbytes else None


def _multiplied(a: Matrix, b: Matrix) -> Matrix | None:
    match a, b:
        case Dense(), Dense():
            return _dense(a.weight.double() @ b.weight.double(), a.dtype)
        case Dense(), LowRank() if not b.packed:
            return _lowrank(a.weight.double() @ b.left.double(), b.right, a.dtype)
        case LowRank(), Dense() if not a.packed:
            return _lowrank(a.left, a.right.double() @ b.weight.double(), a.dtype)
        case LowRank(), LowRank() if not (a.packed or b.packed):
            core = a.right.double() @ b.left.double()
            if a.rank <= b.rank:
                return _lowrank(a.left, core @ b.right.double(), a.dtype)
            return _lowrank(a.left.double() @ core, b.right, a.dtype)
    return None


def _dense(entries: Tensor, dtype: torch.dtype) -> Dense | None:
    weight = narrowed(entries, dtype)
    return None if weight is None else Dense(weight)


def _lowrank(left: Tensor, right: Tensor, dtype: torch.dtype) -> LowRank | None:
    factors = narrowed(left, dtype), narrowed(right, dtype)
    return None if factors[0] is None or factors[1] is None else LowRank(factors[0].clone(), factors[1].clone())


def _slice(matrix: Slice) -> Matrix:
    taken = take(matrix.inner, matrix.rows, matrix.columns)
    return matrix if taken is None else taken


def _blocks(matrix: Cat | BlockDiagonal) -> Matrix:
    blocks = matrices(matrix.blocks)
    if len(blocks) == 1:
        return blocks[0]
    if isinstance(matrix, Cat):
        return Dense(matrix.dense()) if all(isinstance(block, Dense) for block in blocks) else matrix
    if all(isinstance(block, Diagonal) for block in blocks):
        return Diagonal(torch.cat([block.entries for block in blocks if isinstance(block, Diagonal)]))
    if not blocks_alike(blocks):
        return matrix
    batches = [Batch(weights) for weights in stack(blocks)]
    return batches[0] if len(batches) == 1 else Product(*batches)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_identity(matrix: Matrix) -> bool:
    match matrix:
        case Diagonal():
            return bool((matrix.entries == 1).all())
        case Permutation():
            return torch.equal(matrix.index, torch.arange(matrix.shape[0]).to(matrix.index))
    return False
