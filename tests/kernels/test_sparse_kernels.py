"""Sparse products: every way to compute them agrees, and none reads what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels import cpu, sparse_backends, sparse_cpu, sparse_torch, tuning, twofour
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t

F64 = torch.float64
built = pytest.mark.skipif(not shutil.which("c++") and not shutil.which("g++"), reason="there is no C++ compiler")
# Values and vectors that meet: the same type, or float32 values with the half precision that autocast makes.
PAIRS = [(dtype, dtype) for dtype in sparse_cpu.TYPES] + [
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
]
TOLERANCE = {F64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass
class Case:
    """A matrix in one of the three kinds, and its entries."""

    entries: Tensor
    values: Tensor
    crow: Tensor
    col: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.shape[0], self.entries.shape[1]


def case(
    kind: str,
    m: int,
    n: int,
    dtype: torch.dtype = F64,
    index: torch.dtype = torch.int32,
    block: tuple[int, int] = (2, 3),
    density: float = 0.5,
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(m, n, dtype=F64, generator=generator).to(dtype)
    if kind == "two of four":
        kept = twofour.kept_columns(n)
        filled = torch.nn.functional.pad(entries.abs().double(), (0, -n % 4), value=-1.0).view(m, -(-n // 4), 4)
        places = filled.topk(2).indices.sort().values.flatten(1)[:, :kept]
        columns = places + torch.arange(kept) // 2 * 4
        values, packed = entries.gather(1, columns), twofour.pack_places(places.to(torch.uint8))
        return Case(torch.zeros_like(entries).scatter(1, columns, values), values, packed, packed)
    br, bc = block if kind == "blocks" else (1, 1)
    keep = torch.rand(-(-m // br), -(-n // bc), generator=generator) < density
    # What a block holds beyond the edge must count for nothing, so it is made to spoil whatever reads it.
    whole = torch.full((keep.shape[0] * br, keep.shape[1] * bc), torch.nan, dtype=dtype)
    whole[:m, :n] = entries
    rows, col = keep.nonzero(as_tuple=True)
    values = whole.view(keep.shape[0], br, keep.shape[1], bc).transpose(1, 2)[rows, col]
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), keep.sum(1).cumsum(0)])
    mask = keep.repeat_interleave(br, 0).repeat_interleave(bc, 1)[:m, :n]
    values = values if kind == "blocks" else values.flatten()
    return Case(torch.where(mask, entries, 0), values, crow.to(index), col.to(index))


def randn(*shape: int, dtype: torch.dtype = F64, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    size = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=TOLERANCE[dtype] * size * 4)


KINDS = ["entries", "blocks", "two of four"]


@built
@pytest.mark.parametrize("portable", [0, 1])
@given(
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.one_of(st.integers(1, 9), st.integers(60, 140)),
    st.sampled_from(PAIRS),
    st.sampled_from([torch.int32, torch.int64]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_the_own_kernel_computes_every_product_in_every_layout(
    portable: int,
    kind: str,
    m: int,
    n: int,
    k: int,
    types: tuple[torch.dtype, torch.dtype],
    index: torch.dtype,
    block: tuple[int, int],
    density: float,
    seed: int,
) -> None:
    a = case(kind, m, n, types[0], index, block, density, seed)
    places = sparse_cpu.Places("twofour" if kind == "two of four" else "sparse", a.crow, a.col, m, n)
    x, y, entries = randn(k, n, dtype=types[1]), randn(k, m, dtype=types[1]), a.entries.double()
    if 0 in a.values.shape:
        return
    sparse_cpu.PORTABLE = portable
    try:
        for turned in (False, True):
            for lay in (Tensor.contiguous, lambda t: t.T.contiguous().T, lambda t: t.repeat(1, 2)[:, : t.shape[1]]):
                left, right = (lay(t.T if turned else t) for t in (y, x))
                forward = sparse_cpu.multiply(sparse_cpu.MULTIPLY, right, a.values, places, turned)
                back = sparse_cpu.multiply(sparse_cpu.MULTIPLY_T, left, a.values, places, turned)
                assert forward.is_contiguous()
                assert back.is_contiguous()
                close(forward.T if turned else forward, x.double() @ entries.T, types[1])
                close(back.T if turned else back, y.double() @ entries, types[1])
                if kind != "blocks":
                    sampled = sparse_cpu.sample(left, right, places, a.values.shape, turned)
                    reference = sparse_backends.run_sample(
                        left.double(), right.double(), a.crow, a.col, a.values.shape, turned, "torch"
                    )
                    close(sampled, reference, torch.float32 if types[1] != F64 else F64)
    finally:
        sparse_cpu.PORTABLE = 0


@built
@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    a = case(kind, 300, 200, torch.float32, density=0.3)

    def products(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        found = []
        for product, size in ((sparse_matmul, 200), (sparse_matmul_t, 300)):
            for k in (1, 7, 90):
                for x in (randn(k, size, dtype=torch.float32), randn(size, k, dtype=torch.float32).T):
                    values = a.values.detach().nan_to_num().requires_grad_()
                    y = product(x.requires_grad_(), values, a.crow, a.col, a.shape, "own")
                    found += [y, *torch.autograd.grad(y.square().sum(), (x, values))]
        return found

    before = torch.get_num_threads()
    try:
        first, *others = [products(threads) for threads in (1, 2, 3, 5)]
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(one, same) for one, same in zip(first, other, strict=True))


@built
@pytest.mark.parametrize("portable", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_half_precision_is_read_and_rounded_as_torch_does(
    dtype: torch.dtype, portable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_cpu, "PORTABLE", portable)
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(-1, 1)
    crow, col = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0])
    # Products that are exact, that are rounded, and that fall below the normal numbers.
    for values in (torch.tensor([1.0, 1.1, 2.0**-12]), torch.tensor([3.3, 1e-6, 1e4])):
        ours = sparse_matmul(x, values, crow, col, (3, 1), "own")
        expected = (x.float() * values).to(dtype)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["own", "torch"])
@pytest.mark.parametrize("across", [False, True])
def test_products_can_be_differentiated_twice_by_vectors_and_values(kind: str, backend: str, across: bool) -> None:
    a = case(kind, 3, 5)
    values = torch.nan_to_num(a.values).requires_grad_()
    for product, size in ((sparse_matmul, 5), (sparse_matmul_t, 3)):
        x = randn(size, 2).T if across else randn(2, size)

        def apply(x: Tensor, v: Tensor, product: Callable[..., Tensor] = product) -> Tensor:
            return product(x, v, a.crow, a.col, a.shape, backend)

        assert torch.autograd.gradcheck(apply, (x.requires_grad_(), values), fast_mode=True)
        assert torch.autograd.gradgradcheck(apply, (x.requires_grad_(), values), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_operators_pass_the_checks_of_torch(kind: str) -> None:
    a = case(kind, 5, 7)
    values = torch.nan_to_num(a.values).requires_grad_()
    x, y = randn(2, 3, 7).requires_grad_(), randn(2, 3, 5).requires_grad_()
    rest = a.crow, a.col, *a.shape
    torch.library.opcheck(torch.ops.clisonix.sparse_multiply, (x, values, *rest, False, ""))
    torch.library.opcheck(torch.ops.clisonix.sparse_multiply_t, (y, values, *rest, False, ""))
    torch.library.opcheck(torch.ops.clisonix.sparse_multiply, (x[0].detach().T, values, *rest, True, ""))
    arguments = a.crow, a.col, list(values.shape), F64, False, ""
    torch.library.opcheck(torch.ops.clisonix.sparse_sample, (y, x, *arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_have_the_type_of_what_they_belong_to(kind: str) -> None:
    a = case(kind, 5, 7, torch.float32)
    x, values = randn(2, 7, dtype=torch.bfloat16).requires_grad_(), torch.nan_to_num(a.values).requires_grad_()
    product = sparse_matmul(x, values, a.crow, a.col, a.shape)
    assert product.dtype == torch.bfloat16
    grad_x, grad_values = torch.autograd.grad(product.sum(), (x, values))
    assert (grad_x.dtype, grad_values.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("backend", ["own", "torch"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_without_values_give_zeros(index: torch.dtype, backend: str) -> None:
    crow, col = torch.tensor([0, 0, 1, 1], dtype=index), torch.tensor([2], dtype=index)
    entries = torch.zeros(3, 4, dtype=F64)
    entries[1, 2] = 5
    values = torch.tensor([5.0], dtype=F64)
    torch.testing.assert_close(
        sparse_matmul(randn(6, 4), values, crow, col, (3, 4), backend), randn(6, 4) @ entries.T
    )
    torch.testing.assert_close(
        sparse_matmul_t(randn(6, 3), values, crow, col, (3, 4), backend), randn(6, 3) @ entries
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["own", "torch"])
def test_what_is_not_stored_lets_no_infinity_through(kind: str, backend: str) -> None:
    a = case(kind, 6, 8)
    x, y = torch.full((3, 8), torch.inf, dtype=F64), torch.full((3, 6), torch.nan, dtype=F64)
    stored = a.entries != 0
    forward = sparse_matmul(x, a.values, a.crow, a.col, a.shape, backend)
    assert torch.equal(forward[0].isfinite(), ~stored.any(1))
    back = sparse_matmul_t(y, a.values, a.crow, a.col, a.shape, backend)
    assert torch.equal(back[0].isfinite(), ~stored.any(0))


def test_the_reference_gathers_blocks_and_lists_columns_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_torch, "GATHERED", 50)
    monkeypatch.setattr(twofour, "LISTED_ENTRIES", 10)
    for kind in ("blocks", "two of four"):
        a = case(kind, 11, 13)
        values = torch.nan_to_num(a.values).requires_grad_()
        x = randn(4, 13).requires_grad_()
        product = sparse_matmul(x, values, a.crow, a.col, a.shape, "torch")
        torch.testing.assert_close(product, x @ a.entries.T)
        ours = torch.autograd.grad(product.square().sum(), (x, values))
        theirs = torch.autograd.grad(
            sparse_matmul(x, values, a.crow, a.col, a.shape, "own").square().sum(), (x, values)
        )
        torch.testing.assert_close(ours, theirs)


def test_two_of_four_places_are_packed_as_documented() -> None:
    places = torch.tensor([[0, 3, 1, 2, 0, 1]], dtype=torch.uint8)
    packed = twofour.pack_places(places)
    assert packed.tolist() == [[0b10_01_11_00, 0b01_00]]
    assert twofour.columns_of(packed, 12).tolist() == [[0, 3, 5, 6, 8, 9]]
    assert [twofour.kept_columns(n) for n in range(9)] == [0, 1, 2, 2, 2, 3, 4, 4, 4]


def test_sizes_that_do_not_go_together_are_refused_before_anything_is_read() -> None:
    a, packed = case("entries", 5, 7), case("two of four", 5, 7)
    x = randn(3, 7)
    for values, crow, col, shape in (
        (a.values, a.crow, a.col, (5, 8)),
        (a.values, a.crow[:-1], a.col, (5, 7)),
        (a.values[1:], a.crow, a.col, (5, 7)),
        (a.values, a.crow.long(), a.col, (5, 7)),
        (packed.values, packed.crow[:, :0], packed.col, (5, 7)),
        (packed.values, a.crow, a.col, (5, 7)),
    ):
        with pytest.raises(ClisonixError, match="go together"):
            sparse_matmul(x, values, crow, col, shape)


def test_an_unknown_backend_is_refused_and_a_missing_one_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    a, x = case("entries", 5, 7), randn(3, 7)
    with pytest.raises(ClisonixError, match="did you mean 'torch'"):
        sparse_matmul(x, a.values, a.crow, a.col, a.shape, "torhc")
    monkeypatch.setattr(cpu, "load", lambda name: cpu.Library(None, "there is no compiler"))
    for backend in ("", "own"):
        product = sparse_matmul(x, a.values, a.crow, a.col, a.shape, backend)
        torch.testing.assert_close(product, x @ a.entries.T)


def test_large_products_are_measured_small_and_deterministic_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    a, asked = case("entries", 30, 40, torch.float32), []

    def choose(key: str, ways: tuning.Ways, device: torch.device) -> str:
        asked.append(key)
        return "torch"

    monkeypatch.setattr(sparse_backends, "choose", choose)
    x = randn(40, 8, dtype=torch.float32).T
    sparse_matmul(x, a.values, a.crow, a.col, a.shape)
    assert not asked
    monkeypatch.setattr(sparse_backends, "SMALL", 1)
    product = sparse_matmul(x, a.values, a.crow, a.col, a.shape)
    assert len(asked) == 1
    assert torch.equal(product, sparse_matmul(x, a.values, a.crow, a.col, a.shape, "torch"))


def test_of_vectors_that_are_rows_no_way_is_tried_that_copies_them(monkeypatch: pytest.MonkeyPatch) -> None:
    a, x = case("entries", 30, 40, torch.float32), randn(8, 40, dtype=torch.float32)
    if not sparse_cpu.is_possible(x, sparse_cpu.Places("sparse", a.crow, a.col, 30, 40)):
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(sparse_backends, "SMALL", 1)
    monkeypatch.setattr(sparse_backends, "choose", lambda key, ways, device: pytest.fail("a way was tried"))
    product = sparse_matmul(x, a.values, a.crow, a.col, a.shape)
    assert torch.equal(product, sparse_matmul(x, a.values, a.crow, a.col, a.shape, "own"))


def test_torch_sparse_multiplies_what_it_can_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_sparse", reason="the extra [sparse] is not installed")
    a, x, take, ways = case("entries", 30, 40, index=torch.int64), randn(40, 8), sparse_backends.take, []

    def spy(operation: str, found: sparse_backends.Ways, *rest: Any) -> Tensor:
        ways.append([*found])
        return take(operation, found, *rest)

    monkeypatch.setattr(sparse_backends, "take", spy)
    monkeypatch.setattr(sparse_backends, "SMALL", 1)
    monkeypatch.setattr(sparse_backends, "choose", lambda key, found, device: "torch")
    product = sparse_matmul(x.T, a.values, a.crow, a.col, a.shape, "torch_sparse")
    torch.testing.assert_close(product, x.T @ a.entries.T)
    sparse_matmul(x.T, a.values, a.crow.int(), a.col.int(), a.shape)
    sparse_matmul(x.T.contiguous(), a.values, a.crow, a.col, a.shape)
    assert "torch_sparse" in ways[0]
    assert not any("torch_sparse" in found for found in ways[1:])
