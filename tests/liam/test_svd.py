"""Low-rank approximation: optimal, weighted, randomised."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import FORMS, lowrank, randn, sparse

from clisonix.errors import ClisonixError
from clisonix.liam import Dense, LowRank, Sparse, svd_compress, whitened_svd
from clisonix.liam.randomized import leading
from clisonix.liam.rank import choose_rank


def with_spectrum(m: int, n: int, values: torch.Tensor) -> torch.Tensor:
    u, v = (torch.linalg.qr(randn(size, len(values), seed=size)).Q for size in (m, n))
    return u * values @ v.T


def inputs(count: int, n: int, rank: int) -> torch.Tensor:
    """`count` vectors of size `n` that lie in a subspace of dimension `rank`, unevenly."""
    return randn(count, rank, seed=11) * torch.linspace(0.1, 3, rank, dtype=torch.float64) @ randn(rank, n, seed=12)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14))
@settings(max_examples=30, deadline=None)
def test_the_error_is_the_tail_of_the_singular_values(m: int, n: int, k: int) -> None:
    x = randn(m, n)
    result = svd_compress(x, k=k)
    tail = torch.linalg.svdvals(x)[k:]
    assert result.rank == min(k, m, n)
    torch.testing.assert_close((x - result.dense()).norm(), tail.norm(), rtol=1e-9, atol=1e-9)


def test_both_factors_carry_the_same_share_of_every_singular_value() -> None:
    result = svd_compress(randn(8, 6), k=4)
    torch.testing.assert_close(result.left.norm(dim=0), result.right.norm(dim=1))


@pytest.mark.parametrize("tol", [0.0, 0.05, 0.3, 0.9])
def test_tol_gives_the_smallest_rank_within_the_relative_error(tol: float) -> None:
    x = with_spectrum(20, 15, 0.7 ** torch.arange(15, dtype=torch.float64))
    result = svd_compress(x, tol=tol)
    assert (x - result.dense()).norm() <= tol * x.norm() + 1e-12
    if result.rank > 1:
        assert (x - svd_compress(x, k=result.rank - 1).dense()).norm() > tol * x.norm()


@pytest.mark.parametrize("energy", [0.7, 0.9, 0.999])
def test_energy_gives_the_smallest_rank_that_keeps_it(energy: float) -> None:
    x = with_spectrum(20, 15, 0.7 ** torch.arange(15, dtype=torch.float64))
    result = svd_compress(x, energy=energy)
    kept = result.dense().square().sum() / x.square().sum()
    assert kept >= energy
    assert svd_compress(x, k=result.rank - 1).dense().square().sum() / x.square().sum() < energy


def test_a_matrix_of_zeros_keeps_one_column_so_that_it_can_learn() -> None:
    assert svd_compress(torch.zeros(4, 3), tol=0.1).rank == 1
    assert choose_rank(torch.zeros(0), tol=0.1) == 0


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [4, 16])
def test_the_randomised_error_is_within_a_hundredth_of_the_best(decay: float, k: int) -> None:
    values = torch.arange(1, 151, dtype=torch.float64) ** -decay
    x = with_spectrum(200, 150, values)
    error = (x - svd_compress(x, k=k, method="randomized").dense()).norm()
    assert error <= 1.01 * values[k:].norm()


@pytest.mark.parametrize(
    ("values", "products"),
    [
        (torch.exp(-torch.arange(300.0) / 15), 3),
        ((torch.arange(300) < 40).float() + 0.01, 3),
        (torch.arange(1, 301.0) ** -0.5, 5),
        (torch.exp(-torch.arange(300.0) / 100), 5),
        (torch.ones(300), 3),
    ],
    ids=["fast", "a step", "slow", "slowly exponential", "flat"],
)
@torch.no_grad()
def test_the_search_ends_early_only_where_more_products_gain_nothing(values: torch.Tensor, products: int) -> None:
    class Counted(Dense):
        count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return super().forward(x)

        def adjoint(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return super().adjoint(x)

    x, k = with_spectrum(400, 300, values.double()).float(), 40
    counted = Counted(x)
    left, right = leading(counted, k).factors(k)
    assert counted.count == products
    assert (x - left @ right).norm() <= 1.01 * values[k:].norm()


def test_equal_inputs_give_equal_randomised_results_and_touch_no_global_generator() -> None:
    x, state = randn(60, 40), torch.get_rng_state()
    a, b = (svd_compress(x, k=3, method="randomized").dense() for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    other = svd_compress(x, k=3, method="randomized", generator=torch.Generator().manual_seed(5))
    assert not torch.equal(other.dense(), a)


def test_auto_is_random_only_for_a_thin_part_of_a_large_matrix() -> None:
    x = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
    assert torch.equal(svd_compress(x, k=5).left, svd_compress(x, k=5, method="randomized").left)
    small = x[:50, :50]
    assert torch.equal(svd_compress(small, k=5).left, svd_compress(small, k=5, method="exact").left)


@pytest.mark.parametrize("seen", [3, 9, 12])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_whitening_minimises_the_error_on_the_inputs_even_when_they_span_a_subspace(seen: int, method: str) -> None:
    w, v = randn(10, 12), inputs(200, 12, seen)
    moment = v.T @ v / len(v)
    k = 2
    whitened = svd_compress(w, k=k, whiten=moment, method=method)  # type: ignore[arg-type]
    # The best rank-k approximation of the outputs themselves bounds what any rank-k weight can do.
    best = torch.linalg.svdvals(v @ w.T)[k:].norm()
    error = (v @ (w - whitened.dense()).T).norm()
    slack = 1 + 1e-7 if method == "exact" else 1.01
    assert error <= slack * best
    if seen > k:
        assert error < 0.99 * (v @ (w - svd_compress(w, k=k).dense()).T).norm()


@pytest.mark.parametrize("seen", [5, 12])
def test_one_whitened_decomposition_holds_the_best_of_every_rank(seen: int) -> None:
    w, v = randn(10, 12), inputs(200, 12, seen)
    u, s, right_map = whitened_svd(w, v.T @ v / len(v))
    assert (u.shape, s.shape, right_map.shape) == ((10, 10), (10,), (10, 12))
    for r in range(11):
        left, right = u[:, :r] * s[:r].sqrt(), s[:r].sqrt()[:, None] * right_map[:r]
        error = (v @ (w - left @ right).T).square().sum() / len(v)
        torch.testing.assert_close(error, s[r:].square().sum(), rtol=1e-7, atol=1e-9)
        best = torch.linalg.svdvals(v @ w.T)[r:].square().sum() / len(v)
        torch.testing.assert_close(error, best, rtol=1e-7, atol=1e-9)


def test_an_identity_moment_changes_nothing() -> None:
    w = randn(7, 5)
    plain, white = svd_compress(w, k=2), svd_compress(w, k=2, whiten=torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(plain.dense(), white.dense())


def test_inputs_that_never_occur_cost_nothing() -> None:
    w = randn(6, 5)
    moment = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0]))
    result = svd_compress(w, k=2, whiten=moment).dense()
    torch.testing.assert_close(result[:, :2], w[:, :2], rtol=1e-6, atol=1e-6)
    assert torch.count_nonzero(result[:, 2:].abs() > 1e-12) == 0


@pytest.mark.parametrize("name", FORMS)
def test_every_form_can_be_compressed(name: str) -> None:
    a = FORMS[name](9, 7, torch.float64)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(svd_compress(a, k=7).dense(), a.dense().detach(), check_stride=False, **close)
    random = svd_compress(a, k=7, method="randomized")
    torch.testing.assert_close(random.dense(), a.dense().detach(), check_stride=False, **close)


def test_sparse_tensors_are_compressed_without_being_opened_first() -> None:
    a = sparse(30, 20, torch.float64)
    result = svd_compress(a.coo().detach(), k=20, method="randomized")
    torch.testing.assert_close(result.dense(), a.dense(), rtol=1e-7, atol=1e-7)
    assert isinstance(Sparse.from_tensor(a.coo()), Sparse)


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 6), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_recompressing_factors_equals_compressing_their_product(m: int, n: int, rank: int, k: int) -> None:
    a = lowrank(m, n, torch.float64, rank)
    ours = a.recompress(k=k)
    tail = torch.linalg.svdvals(a.dense())[k:]
    torch.testing.assert_close((a.dense() - ours.dense()).norm(), tail.norm(), rtol=1e-8, atol=1e-8)
    assert ours.rank <= min(k, max(rank, 1))
    kept = a.recompress(energy=0.9).dense().square().sum()
    assert kept >= 0.9 * a.dense().square().sum() - 1e-9


def test_a_concatenated_sum_recompresses_to_the_rank_it_truly_has() -> None:
    a = lowrank(8, 6, torch.float64, 2)
    twice = LowRank.concatenate([a, a])
    assert twice.rank == 4
    assert twice.recompress(tol=1e-9).rank == 2
    torch.testing.assert_close(twice.recompress(tol=1e-9).dense(), 2 * a.dense())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_the_factors_have_the_dtype_of_the_input(dtype: torch.dtype, method: str) -> None:
    x = randn(30, 20, dtype=dtype)
    result = svd_compress(x, k=20, method=method)  # type: ignore[arg-type]
    assert result.left.dtype == result.right.dtype == dtype
    error = (result.dense().double() - x.double()).norm() / x.double().norm()
    assert error < 8 * torch.finfo(dtype).eps


def test_what_cannot_be_compressed_is_refused_in_a_sentence() -> None:
    x = randn(4, 3)
    bad = x.clone()
    bad[0, 0] = float("nan")
    for expected, call in {
        "no rank": lambda: svd_compress(x, k=0),
        "exactly one": lambda: svd_compress(x),
        "k and energy": lambda: svd_compress(x, k=1, energy=0.5),
        r"\(0, 1\]": lambda: svd_compress(x, energy=1.5),
        r"\[0, 1\)": lambda: svd_compress(x, tol=1.0),
        "1 of 12 entries": lambda: svd_compress(bad, k=1),
        "NaN or infinite": lambda: svd_compress(bad, k=1, method="randomized"),
        "of left are NaN": lambda: LowRank(bad, bad.T).recompress(k=1),
        "dense floating-point": lambda: svd_compress(torch.ones(3, 3, dtype=torch.int64), k=1),
        "with 2 dimensions": lambda: svd_compress(torch.ones(3), k=1),
        "did you mean 'exact'": lambda: svd_compress(x, k=1, method="exct"),  # type: ignore[arg-type]
        r"needs \(3, 3\)": lambda: svd_compress(x, k=1, whiten=torch.eye(4)),
        "negative eigenvalue": lambda: svd_compress(x, k=1, whiten=-torch.eye(3)),
        "range of torch.float16": lambda: svd_compress(
            torch.full((40, 40), 6e4, dtype=torch.float16), k=1, whiten=1e-12 * torch.eye(40)
        ),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            call()
