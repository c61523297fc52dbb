"""Solving A x = b in the form A has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from matrices import FORMS, binary, dense, diagonal, lowrank, permutation, randn, sparse

from clisonix.errors import ClisonixError
from clisonix.liam import Batch, BlockDiagonal, Dense, Diagonal, LowRank, Matrix, solve

F64 = torch.float64


def near_identity(n: int) -> Dense:
    return Dense(torch.eye(n, dtype=F64) + 0.1 * randn(n, n, seed=20))


SOLVABLE: dict[str, Callable[[], Matrix]] = {
    "diagonal": lambda: diagonal(6, F64),
    "permutation": lambda: permutation(6, F64),
    "dense": lambda: near_identity(6),
    "transposed dense": lambda: near_identity(6).T,
    "scaled": lambda: -2 * near_identity(6),
    "product": lambda: near_identity(6) @ diagonal(6, F64) @ permutation(6, F64),
    "transposed product": lambda: (near_identity(6) @ diagonal(6, F64) @ permutation(6, F64)).T,
    "diagonal plus low rank": lambda: diagonal(6, F64) + lowrank(6, 6, F64),
    "transposed sum": lambda: (diagonal(6, F64) - 0.5 * lowrank(6, 6, F64)).T,
    "two diagonals and a product": lambda: (
        2 * diagonal(6, F64) + diagonal(6, F64).T + lowrank(6, 6, F64) @ sparse(6, 6, F64)
    ),
    "only diagonals": lambda: diagonal(6, F64) + diagonal(6, F64),
    "blocks": lambda: BlockDiagonal(near_identity(2), diagonal(4, F64)),
    "transposed blocks": lambda: BlockDiagonal(near_identity(2), diagonal(4, F64)).T,
    "batch": lambda: Batch(torch.eye(2, dtype=F64) + 0.3 * randn(3, 2, 2)),
    "transposed batch": lambda: Batch(torch.eye(2, dtype=F64) + 0.3 * randn(3, 2, 2)).T,
}
solvable = pytest.mark.parametrize("make", SOLVABLE.values(), ids=SOLVABLE.keys())


@solvable
@pytest.mark.parametrize("columns", [(), (4,), (0,)])
def test_the_solution_solves_it(make: Callable[[], Matrix], columns: tuple[int, ...]) -> None:
    a, b = make(), randn(6, *columns, seed=21)
    x = solve(a, b)
    assert x.shape == b.shape
    torch.testing.assert_close(a @ x, b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x, torch.linalg.solve(a.dense(), b), rtol=1e-8, atol=1e-8)


@solvable
def test_gradients_are_those_of_the_dense_solution(make: Callable[[], Matrix]) -> None:
    a, b, weights = make(), randn(6, 2, seed=21).requires_grad_(), randn(6, 2, seed=22)
    wanted = [b, *a.parameters()]
    ours = torch.autograd.grad((solve(a, b) * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
    theirs = (torch.linalg.solve(a.dense(), b) * weights).sum()
    expected = torch.autograd.grad(theirs, wanted, allow_unused=True, materialize_grads=True)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_solved_in_more(dtype: torch.dtype) -> None:
    a = (diagonal(6, F64).to(dtype) + lowrank(6, 6, dtype)) if dtype == torch.float32 else near_identity(6).to(dtype)
    b = randn(6, dtype=dtype)
    x = solve(a, b)
    assert x.dtype == dtype
    x, exact = x.detach(), torch.linalg.solve(a.double().dense().detach(), b.double())
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps * float(exact.abs().max()))


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])
def test_woodbury_is_accurate_for_badly_scaled_diagonals_and_factors(spread: float) -> None:
    d = torch.logspace(0, 1, 40, dtype=F64) * torch.where(torch.arange(40) % 2 == 0, spread, 1 / spread)
    for balance in (1.0, 1e5):
        a = Diagonal(d) + LowRank(balance * randn(40, 4, seed=1), randn(4, 40, seed=2) / balance)
        a, b = a.requires_grad_(False), randn(40, 3, seed=3)
        x = solve(a, b)
        exact = torch.linalg.solve(a.dense(), b)
        # Both are backward stable at best: the residual is what an algorithm can promise.
        size = a.dense().abs() @ exact.abs() + b.abs()
        assert float(((a @ x - b).abs() / size).max()) < 1e-10


def test_a_solution_for_a_large_low_rank_update_never_forms_the_matrix() -> None:
    n = 60_000
    a = Diagonal(torch.full((n,), 2.0)) + LowRank(torch.ones(n, 1), torch.ones(1, n))
    torch.testing.assert_close(solve(a, torch.ones(n)), torch.full((n,), 1 / (n + 2.0)))


def test_what_cannot_be_solved_says_why() -> None:
    zero = Diagonal(torch.tensor([1.0, 0.0, 2.0], dtype=F64))
    one = Diagonal(torch.ones(3, dtype=F64))
    flat = torch.full((3, 1), 1.0, dtype=F64)
    for expected, matrix in {
        r"not square.*lstsq": dense(3, 4, F64),
        "singular: entry 1 of its diagonal is zero": zero,
        "Sum of shape .* is singular: entry 1": zero + LowRank(flat, flat.T),
        "cancel the diagonal in some direction": one - LowRank(flat, flat.T / 3),
        r"Dense of shape \(3, 3\) is singular": Dense(torch.ones(3, 3, dtype=F64)),
        "Scaled of shape .* is singular": one * 0.0,
        "rank 1 is singular; add a Diagonal": LowRank(flat, flat.T),
        "Binary of shape .* cannot be solved as it is stored; solve Dense": binary(3, 3, F64),
        "no diagonal term to start from": binary(3, 3, F64) + sparse(3, 3, F64),
        "Binary of shape .* has no thin factors": one + binary(3, 3, F64),
        "a part that is not square": dense(3, 5, F64) @ dense(5, 3, F64),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            solve(matrix, randn(matrix.shape[0]))
    with pytest.raises(ClisonixError, match="b has shape"):
        solve(one, randn(2, 3, 1))
    with pytest.raises(ClisonixError, match="must be 3"):
        solve(one, randn(4))
    with pytest.raises(ClisonixError, match="convert one"):
        solve(one, torch.ones(3))


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
def test_every_form_either_solves_or_says_what_would(make: Callable[..., Matrix]) -> None:
    a, b = make(5, 5, F64), randn(5)
    refused = None
    try:
        torch.testing.assert_close(a @ solve(a, b), b, rtol=1e-6, atol=1e-6)
    except ClisonixError as error:
        refused = str(error)
    assert refused is None or refused.endswith(".")


def test_an_empty_system_has_the_empty_solution() -> None:
    for a in (diagonal(0, F64), dense(0, 0, F64), diagonal(0, F64) + lowrank(0, 0, F64)):
        assert solve(a, randn(0)).shape == (0,)
        assert solve(a, randn(0, 3)).shape == (0, 3)
