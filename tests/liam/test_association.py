"""Products are multiplied in a cheap order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import binary, dense, diagonal, lowrank, permutation, randn, sparse
from torch.utils.flop_counter import FlopCounterMode

from clisonix.liam import BlockDiagonal, Cat, Dense, LowRank, Matrix, Product, Scaled
from clisonix.liam.association import Chain, work

F32, F64 = torch.float32, torch.float64


def flops(run: object) -> int:
    """Floating-point operations of the matrix products in `run()`, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        run()  # type: ignore[operator]
    return counter.get_total_flops()


def one_by_one(product: Product, x: torch.Tensor) -> torch.Tensor:
    for factor in reversed(list(product.factors)):
        x = factor(x)
    return x


@pytest.mark.parametrize(
    "make",
    [
        lambda: Product(dense(400, 400, F32), dense(400, 4, F32), dense(4, 400, F32)),
        lambda: Product(dense(400, 4, F32), dense(4, 400, F32), dense(400, 400, F32)),
    ],
)
def test_entries_of_a_product_cost_a_tenth_of_the_naive_order(make: object) -> None:
    product: Product = make()  # type: ignore[operator]
    eye = torch.eye(product.shape[1])
    naive = flops(lambda: one_by_one(product, eye))
    assert flops(product.dense) * 10 < naive
    torch.testing.assert_close(product.dense(), one_by_one(product, eye).mT, rtol=1e-3, atol=1e-1)


def test_a_large_batch_meets_small_factors_multiplied_out() -> None:
    a, b = dense(10, 500, F32), dense(500, 500, F32)
    x = randn(500, 4000, dtype=F32)
    naive = 2 * 4000 * (500 * 500 + 10 * 500)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert flops(lambda: a @ b @ x) * 10 < naive
            torch.testing.assert_close(a @ b @ x, a.dense() @ (b.dense() @ x), rtol=1e-3, atol=1e-2)
    rows = randn(4000, 10, dtype=F32)
    assert flops(lambda: rows @ (a @ b)) * 10 < naive
    # For a few vectors it is not worth it.
    assert flops(lambda: a @ b @ x[:, :4]) == 2 * 4 * (500 * 500 + 10 * 500)


def test_a_large_batch_never_opens_what_is_packed_or_thin() -> None:
    x = randn(4096, 64, dtype=F32)
    double = Product(diagonal(64, F32), binary(64, 64, F32), diagonal(64, F32), binary(64, 64, F32))
    low = Product(dense(64, 8, F32), dense(8, 64, F32))
    for product in (double, low):
        plans = Chain(list(product.factors)).segments(4096)
        assert all(first == last for first, last in plans)
    assert flops(lambda: low(x)) == 2 * 4096 * 2 * 64 * 8


sizes = st.lists(st.integers(1, 12), min_size=2, max_size=6)


@given(sizes, st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_no_order_of_dense_factors_is_cheaper(sizes: list[int], columns: int, data: st.DataObject) -> None:
    factors: list[Matrix] = [Dense(randn(m, n)) for m, n in pairwise(sizes)]
    chain = Chain(factors)
    expected = torch.eye(sizes[0], dtype=F64)
    for factor in factors:
        expected = expected @ factor.dense()
    torch.testing.assert_close(chain.dense(), expected)

    def any_order(first: int, last: int) -> float:
        if first == last:
            return 8.0 * sizes[first] * sizes[first + 1]
        split = data.draw(st.integers(first, last - 1))
        m, p, n = sizes[first], sizes[split + 1], sizes[last + 1]
        return any_order(first, split) + any_order(split + 1, last) + m * p * n + 8 * (m * p + p * n + m * n)

    assert chain.best(0, len(factors) - 1)[0] <= any_order(0, len(factors) - 1) + 1e-6
    runs = chain.segments(columns)
    assert [i for first, last in runs for i in range(first, last + 1)] == list(range(len(factors)))


def test_work_is_what_a_vector_costs() -> None:
    assert work(dense(3, 5, F64)) == 15
    assert work(binary(3, 5, F64)) == 15
    assert work(diagonal(5, F64)) == work(permutation(5, F64)) == 5
    assert work(LowRank(randn(3, 2), randn(2, 5))) == 2 * 8
    s = sparse(6, 9, F64)
    assert work(s) == s.values.numel()
    assert work(Scaled(s + s.T.T, 2.0)) == 2 * work(s)
    assert work(diagonal(6, F64) @ s) == 6 + work(s)
    assert work(Cat(s, s)) == work(BlockDiagonal(s, s)) == 2 * work(s)
    assert work(dense(6, 9, F64)[:2, :3]) == 6
    assert work(lowrank(6, 9, F64).quantize(4)) == 3 * 15
