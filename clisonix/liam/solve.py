"""`A x = b` for the forms that can do it cheaply."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.blockdiagonal import Batch, BlockDiagonal
from clisonix.liam.dense import Dense
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix, check_input
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose, matrices
from clisonix.liam.permutation import Permutation
from clisonix.liam.thin import thin_factors


def solve(matrix: Matrix, b: Tensor) -> Tensor:
    """The `x` with `matrix @ x = b`, differentiable in both.

    Diagonals and permutations take a step for each entry. Dense matrices are factorised (LU). A diagonal
    plus terms of low rank needs a system of their rank only (Woodbury's identity), with one step of
    refinement, in float64. Products, multiples, transposes and blocks of solvable matrices are solved part
    by part.

    >>> import torch
    >>> from clisonix.liam import Diagonal, LowRank, solve
    >>> a = Diagonal(torch.full((3,), 2.0)) + LowRank(torch.ones(3, 1), torch.ones(1, 3))
    >>> solve(a, torch.tensor([5.0, 5.0, 5.0])).tolist()
    [1.0, 1.0, 1.0]

    Args:
        matrix: `(n, n)`.
        b: `(n,)` or `(n, k)`, of its dtype and device.

    Returns:
        Of the shape of `b`.

    Raises:
        ClisonixError: the matrix is not square, is singular, or has a form that offers no solution.
    """
    m, n = matrix.shape
    if m != n:
        raise ClisonixError(
            f"{type(matrix).__name__} of shape {matrix.shape} is not square, so A x = b has no single solution; "
            "for least squares use torch.linalg.lstsq(A.dense(), b)."
        )
    if b.ndim not in (1, 2):
        raise ClisonixError(f"b has shape {tuple(b.shape)}; give ({n},) or ({n}, k).")
    check_input(b, -b.ndim, matrix, n, matrix._first_float())
    # Half precision has no factorisations in torch, and loses too much in them.
    wide = torch.promote_types(b.dtype, torch.float32)
    columns = b if b.ndim == 2 else b[:, None]
    return _solve(matrix, columns.to(wide), transposed=False).to(b.dtype).reshape(b.shape)


def _solve(matrix: Matrix, b: Tensor, *, transposed: bool) -> Tensor:
    """`matrix` (or its transpose) `\\ b`, for `b (n, k)` of at least float32."""
    match matrix:
        case Diagonal():
            return b / _nonzero(matrix.entries, matrix)[:, None].to(b.dtype)
        case Permutation():
            index = matrix.index.long()
            return b[index] if transposed else torch.zeros_like(b).index_copy(0, index, b)
        case Dense():
            return _lu(matrix.weight.mT if transposed else matrix.weight, b, matrix)
        case Transpose():
            return _solve(matrix.inner, b, transposed=not transposed)
        case Scaled():
            return _solve(matrix.inner, b, transposed=transposed) / _nonzero(matrix.scale, matrix).to(b.dtype)
        case Product():
            return _solve_product(matrix, b, transposed=transposed)
        case BlockDiagonal():
            blocks = matrices(matrix.blocks)
            parts = torch.split(b, [_square(block).shape[0] for block in blocks])
            solved = [_solve(block, part, transposed=transposed) for block, part in zip(blocks, parts, strict=True)]
            return torch.cat(solved)
        case Batch():
            g, m, n = matrix.weight.shape
            if m == n:
                weight = matrix.weight.mT if transposed else matrix.weight
                return _lu(weight, b.reshape(g, n, -1), matrix).reshape(b.shape)
        case Sum():
            return _woodbury(matrix, b, transposed=transposed)
        case LowRank() if matrix.rank < matrix.shape[0]:
            raise ClisonixError(
                f"LowRank of shape {matrix.shape} and rank {matrix.rank} is singular; add a Diagonal to it."
            )
    raise ClisonixError(
        f"{type(matrix).__name__} of shape {matrix.shape} cannot be solved as it is stored; solve Dense(A.dense())."
    )


def _solve_product(product: Product, b: Tensor, *, transposed: bool) -> Tensor:
    factors = matrices(product.factors)
    for factor in reversed(factors) if transposed else factors:
        b = _solve(_square(factor), b, transposed=transposed)
    return b


def _woodbury(matrix: Sum, b: Tensor, *, transposed: bool) -> Tensor:
    """`(D + U V) x = b` by way of the `(r, r)` system of `I + V D⁻¹ U`."""
    terms = matrices(matrix.terms)
    diagonals = [_diagonal(term) for term in terms]
    rest = [term for term, entries in zip(terms, diagonals, strict=True) if entries is None]
    found = [entries.double() for entries in diagonals if entries is not None]
    if not found:
        raise ClisonixError(
            f"Sum of shape {matrix.shape} has no diagonal term to start from; add one, or solve Dense(A.dense())."
        )
    d = _nonzero(torch.stack(found).sum(0), matrix)[:, None]
    if not rest:
        return b / d.to(b.dtype)
    left, right = thin_factors(Sum(*rest).T if transposed else Sum(*rest))
    u, v, wide = left.double(), right.double(), b.double()
    # Factors of one size: otherwise large and small numbers meet in the core and cancel.
    sizes = (v.norm(dim=1) / u.norm(dim=0)).detach()
    balance = torch.where(sizes.isfinite() & (sizes > 0), sizes, 1.0).sqrt()
    u, v = u * balance, v / balance[:, None]
    du = u / d
    change = v @ du
    core = torch.eye(u.shape[1], dtype=u.dtype, device=u.device) + change
    if u.shape[1]:
        noise = torch.finfo(u.dtype).eps * u.shape[1] * (1 + change.norm())
        if bool(torch.linalg.svdvals(core.detach())[-1] <= noise):
            raise _singular(matrix, ": its terms of low rank cancel the diagonal in some direction")

    def once(y: Tensor) -> Tensor:
        dy = y / d
        return dy - du @ _lu(core, v @ dy, matrix)

    x = once(wide)
    return (x + once(wide - d * x - u @ (v @ x))).to(b.dtype)


def _diagonal(matrix: Matrix) -> Tensor | None:
    """The diagonal of a matrix that by its form has nothing else."""
    match matrix:
        case Diagonal():
            return matrix.entries
        case Transpose():
            return _diagonal(matrix.inner)
        case Scaled():
            entries = _diagonal(matrix.inner)
            return None if entries is None else entries * matrix.scale
    return None


def _lu(weight: Tensor, b: Tensor, matrix: Matrix) -> Tensor:
    if weight.shape[-1] == 0:
        return b
    solution: Tensor
    solution, info = torch.linalg.solve_ex(weight.to(b.dtype), b)
    if bool((info != 0).any()) or not bool(solution.isfinite().all() | ~b.isfinite().all()):
        raise _singular(matrix, "")
    return solution


def _nonzero(entries: Tensor, matrix: Matrix) -> Tensor:
    zeros = (entries == 0).reshape(-1).nonzero()
    if zeros.numel():
        raise _singular(matrix, f": entry {int(zeros[0])} of its diagonal is zero")
    return entries


def _square(matrix: Matrix) -> Matrix:
    if matrix.shape[0] != matrix.shape[1]:
        raise ClisonixError(
            f"{type(matrix).__name__} of shape {matrix.shape} is a part that is not square, so the whole cannot be "
            "solved part by part; solve Dense(A.dense())."
        )
    return matrix


def _singular(matrix: Matrix, why: str) -> ClisonixError:
    return ClisonixError(
        f"{type(matrix).__name__} of shape {matrix.shape} is singular{why}, so A x = b has no single solution."
    )
