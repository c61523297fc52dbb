"""The same map in fewer steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import (
    FORMS,
    SHAPES,
    Make,
    batch,
    binary,
    blocks,
    dense,
    diagonal,
    integer,
    lowrank,
    permutation,
    randn,
    sparse,
    two_of_four,
)

from clisonix.liam import (
    Batch,
    Binary,
    BlockDiagonal,
    BlockSparse,
    Cat,
    Dense,
    Diagonal,
    Integer,
    LowRank,
    Matrix,
    Permutation,
    Product,
    Scaled,
    SemiSparse,
    Slice,
    Sparse,
    Sum,
    Ternary,
    Transpose,
    simplify,
)

F64 = torch.float64
SQUARE: dict[str, Make] = {
    **FORMS,
    "diagonal": lambda m, n, dtype: diagonal(n, dtype),
    "ones": lambda m, n, dtype: Diagonal(torch.ones(n, dtype=dtype)),
    "permutation": lambda m, n, dtype: permutation(n, dtype),
}


def trees(size: int) -> st.SearchStrategy[Matrix]:
    """Expressions of square matrices, a few operators deep."""
    leaves = st.sampled_from(list(SQUARE.values())).map(lambda make: make(size, size, F64))

    def grow(parts: st.SearchStrategy[Matrix]) -> st.SearchStrategy[Matrix]:
        return st.one_of(
            st.tuples(parts, parts).map(lambda ab: ab[0] + ab[1]),
            st.tuples(parts, parts).map(lambda ab: ab[0] - ab[1]),
            st.lists(parts, min_size=2, max_size=4).map(lambda factors: Product(*factors)),
            st.tuples(parts, st.floats(-2, 2)).map(lambda ac: ac[0] * ac[1]),
            parts.map(lambda a: a.T),
            st.tuples(parts, st.permutations(range(size))).map(lambda ap: ap[0][ap[1], :]),
            st.tuples(parts, parts).map(lambda ab: Cat(*ab, dim=0)[1 : size + 1]),
            st.tuples(parts, parts).map(lambda ab: BlockDiagonal(*ab)[::2, ::2]),
        )

    return st.recursive(leaves, grow, max_leaves=6)


def steps(matrix: Matrix) -> int:
    """Forms to be applied; a transpose only exchanges the two ways to apply one."""
    return sum(
        isinstance(module, Matrix) and not isinstance(module, Product | Sum | Transpose)
        for module in matrix.modules()
    )


def storages(matrix: Matrix) -> set[int]:
    tensors = [*matrix.parameters(), *matrix.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


@given(trees(6))
@settings(max_examples=120, deadline=None)
def test_the_map_stays_and_the_original_is_neither_changed_nor_shared(a: Matrix) -> None:
    before = a.dense().detach().clone()
    b = simplify(a)
    size = max(float(before.abs().max()), 1.0)
    torch.testing.assert_close(b.dense().detach(), before, rtol=1e-9, atol=1e-9 * size)
    torch.testing.assert_close(b(randn(2, 6)).detach(), randn(2, 6) @ before.T, rtol=1e-9, atol=1e-8 * size)
    assert torch.equal(a.dense(), before)
    assert not storages(a) & storages(b)
    assert steps(b) <= steps(a)


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize(("m", "n"), [*SHAPES, (0, 4), (4, 0)])
def test_every_form_keeps_its_map_and_grows_no_larger(make: Make, m: int, n: int) -> None:
    a = 2 * (diagonal(m, F64) @ make(m, n, F64) @ diagonal(n, F64)).T
    b = simplify(a)
    torch.testing.assert_close(b.dense(), a.dense(), rtol=1e-9, atol=1e-9)
    assert b.nbytes <= a.nbytes
    again = simplify(b)
    assert steps(again) == steps(b)


def test_a_double_binary_product_keeps_one_diagonal() -> None:
    d, b = (lambda: diagonal(8, F64)), (lambda: binary(8, 8, F64))
    product = simplify(3 * (d() @ b() @ d() @ b() @ d()))
    assert [type(factor) for factor in product.factors] == [Binary, Binary, Diagonal]


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: diagonal(5, F64) @ diagonal(5, F64) @ diagonal(5, F64), Diagonal),
        (lambda: -diagonal(5, F64), Diagonal),
        (lambda: diagonal(5, F64) + diagonal(5, F64), Diagonal),
        (lambda: permutation(5, F64) @ permutation(5, F64, 13) @ permutation(5, F64).T, Permutation),
        (lambda: permutation(5, F64).T @ diagonal(5, F64) @ permutation(5, F64), Product),
        (lambda: diagonal(5, F64) @ dense(5, 7, F64) @ diagonal(7, F64), Dense),
        (lambda: diagonal(5, F64) @ lowrank(5, 7, F64) @ diagonal(7, F64), LowRank),
        (lambda: (diagonal(7, F64) @ lowrank(5, 7, F64).T) * 2, LowRank),
        (lambda: diagonal(5, F64) @ binary(5, 7, F64), Binary),
        (lambda: permutation(5, F64) @ binary(5, 7, F64), Binary),
        (lambda: binary(5, 7, F64).T @ diagonal(5, F64), Transpose),
        (lambda: diagonal(5, F64) @ integer(5, 7, F64), Integer),
        (lambda: permutation(5, F64) @ integer(5, 7, F64) * 3, Integer),
        (lambda: integer(5, 8, F64) @ Diagonal(torch.tensor([2.0] * 4 + [3.0] * 4, dtype=F64)), Integer),
        (lambda: integer(5, 8, F64) @ diagonal(8, F64), Product),
        (lambda: diagonal(5, F64) @ Ternary.nearest(randn(5, 7)), Ternary),
        (lambda: diagonal(5, F64) @ sparse(5, 7, F64) @ diagonal(7, F64), Sparse),
        (lambda: permutation(5, F64) @ sparse(5, 7, F64) @ permutation(7, F64), Sparse),
        (lambda: diagonal(5, F64) @ blocks(5, 7, F64) @ diagonal(7, F64), BlockSparse),
        (lambda: diagonal(5, F64) @ two_of_four(5, 7, F64) @ diagonal(7, F64), SemiSparse),
        (lambda: permutation(5, F64) @ two_of_four(5, 7, F64), SemiSparse),
        (lambda: sparse(5, 7, F64) - sparse(5, 7, F64), Sparse),
        (lambda: Permutation(torch.arange(5), F64) @ binary(5, 7, F64) * 1.0, Binary),
        (lambda: Diagonal(torch.ones(5, dtype=F64)) @ Permutation(torch.arange(5), F64), Diagonal),
        (lambda: lowrank(20, 30, F64) + 2 * lowrank(20, 30, F64), LowRank),
        (lambda: lowrank(5, 6, F64) + 2 * lowrank(5, 6, F64), Dense),
        (lambda: dense(20, 30, F64) + lowrank(20, 30, F64) - sparse(20, 30, F64), Dense),
        (lambda: lowrank(20, 30, F64) @ dense(30, 30, F64) @ lowrank(30, 20, F64), LowRank),
        (lambda: dense(20, 3, F64) @ dense(3, 20, F64), Product),
        (lambda: dense(3, 20, F64) @ dense(20, 3, F64), Dense),
        (lambda: lowrank(8, 9, F64)[2:5, [0, 3]], LowRank),
        (lambda: binary(8, 9, F64)[2:5], Binary),
        (lambda: binary(8, 9, F64)[:, 2:5], Slice),
        (lambda: Cat(dense(2, 3, F64), dense(4, 3, F64)), Dense),
        (lambda: BlockDiagonal(dense(2, 3, F64), dense(2, 3, F64)), Batch),
        (lambda: BlockDiagonal(lowrank(4, 5, F64), lowrank(4, 5, F64)), Product),
        (lambda: BlockDiagonal(diagonal(2, F64), diagonal(3, F64)), Diagonal),
        (lambda: diagonal(6, F64) @ batch(6, 9, F64) @ diagonal(9, F64), Batch),
        (lambda: LowRank(dense(5, 2, F64), dense(2, 6, F64)), LowRank),
        (lambda: permutation(4, F64) * 2, Scaled),
        (lambda: Sum(binary(4, 5, F64)), Binary),
    ],
)
def test_what_can_be_one_step_is_one(make: object, form: type[Matrix]) -> None:
    a = make()  # type: ignore[operator]
    b = simplify(a)
    assert type(b) is form
    torch.testing.assert_close(b.dense(), a.dense())


def test_a_scale_that_leaves_the_range_of_its_dtype_stays_outside() -> None:
    large = Diagonal(torch.full((4,), 6e4, dtype=torch.float16))
    product = simplify(large @ large)
    assert isinstance(product, Product)
    small = Diagonal(torch.full((4,), 1e-4, dtype=torch.float16))
    assert isinstance(simplify(small @ small), Product)
    # 6e4 · 1e-4 is in range, but not what remains to be multiplied.
    assert isinstance(simplify(large @ small), Diagonal)


def test_the_result_trains_if_anything_did() -> None:
    a = diagonal(4, F64) @ dense(4, 5, F64)
    assert all(parameter.requires_grad for parameter in simplify(a).parameters())
    assert not any(parameter.requires_grad for parameter in simplify(a.requires_grad_(False)).parameters())
