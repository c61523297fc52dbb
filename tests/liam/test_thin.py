"""Low rank without looking at the entries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import binary, dense, diagonal, integer, lowrank, permutation, randn, sparse

from clisonix.errors import ClisonixError
from clisonix.liam import BlockDiagonal, Cat, Dense, Integer, LowRank, Matrix, recompress, svd_compress

F64 = torch.float64

THIN: dict[str, Callable[[], Matrix]] = {
    "low rank": lambda: lowrank(20, 30, F64),
    "sum": lambda: lowrank(20, 30, F64) - 2 * lowrank(20, 30, F64, rank=2),
    "product with a low rank": lambda: (
        diagonal(20, F64) @ binary(20, 20, F64) @ lowrank(20, 30, F64) @ sparse(30, 30, F64)
    ),
    "product of two low ranks": lambda: lowrank(20, 25, F64, rank=7) @ lowrank(25, 30, F64),
    "thin middle": lambda: integer(20, 4, F64) @ diagonal(4, F64) @ binary(4, 30, F64),
    "transpose": lambda: (permutation(30, F64) @ lowrank(30, 20, F64)).T,
    "slice": lambda: lowrank(25, 30, F64)[5:] + lowrank(20, 40, F64)[:, list(range(30))],
    "side by side": lambda: Cat(lowrank(20, 10, F64), lowrank(20, 20, F64), dim=1),
    "stacked": lambda: Cat(lowrank(15, 30, F64), lowrank(5, 30, F64), dim=0),
    "blocks": lambda: BlockDiagonal(lowrank(5, 10, F64), lowrank(15, 20, F64)),
    "packed": lambda: lowrank(20, 30, F64).quantize(bits=5),
    "more terms than rank": lambda: sum((lowrank(20, 30, F64, rank=8) for _ in range(4)), lowrank(20, 30, F64)),
}
thin = pytest.mark.parametrize("make", THIN.values(), ids=THIN.keys())


@thin
@pytest.mark.parametrize("target", [{"k": 2}, {"energy": 0.8}, {"tol": 0.3}])
def test_recompressing_equals_the_svd_of_the_entries(make: Callable[[], Matrix], target: dict[str, float]) -> None:
    a = make()
    ours = recompress(a, **target)  # type: ignore[arg-type]
    theirs = svd_compress(Dense(a.dense()), method="exact", **target)  # type: ignore[arg-type]
    assert (ours.rank, ours.dtype) == (theirs.rank, F64)
    torch.testing.assert_close(ours.dense(), theirs.dense(), rtol=1e-8, atol=1e-8)
    assert not any(p is q for p in ours.parameters() for q in a.parameters())


@thin
def test_the_entries_are_never_formed(make: Callable[[], Matrix], monkeypatch: pytest.MonkeyPatch) -> None:
    a = make()

    def refuse(self: Matrix) -> torch.Tensor:
        raise AssertionError(f"{type(self).__name__} of shape {self.shape} was opened")

    for form in {type(module) for module in a.modules() if isinstance(module, Matrix) and module.shape == a.shape}:
        monkeypatch.setattr(form, "dense", refuse)
    recompress(a, k=2)


def test_rank_that_is_not_low_by_its_form_is_refused_in_a_sentence() -> None:
    for a in (binary(5, 6, F64), lowrank(5, 6, F64) + sparse(5, 6, F64), Cat(lowrank(5, 6, F64), dense(1, 6, F64))):
        with pytest.raises(ClisonixError, match=r"(Binary|Sparse|Dense) of shape .* use svd_compress"):
            recompress(a, k=1)
    with pytest.raises(ClisonixError, match="exactly one of"):
        recompress(lowrank(5, 6, F64))


@given(st.integers(0, 9), st.integers(0, 12), st.integers(0, 6), st.integers(2, 8), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_quantized_factors_keep_shape_rank_dtype_and_come_closer_with_bits(
    m: int, n: int, rank: int, bits: int, group: int
) -> None:
    a = lowrank(m, n, F64, rank=rank)
    q = a.quantize(bits, group)
    assert (q.shape, q.dtype) == (a.shape, F64)
    assert q.rank <= rank
    entries = a.dense().detach()
    error = float((q.dense().detach() - entries).norm())
    assert error <= 4 * 2.0**-bits * max(rank, 1) * float(entries.norm()) + 1e-9


def test_packed_factors_cost_their_bits() -> None:
    a = LowRank(torch.randn(256, 32), torch.randn(32, 512))
    q = a.quantize(bits=4, group=64)
    assert q.nbytes == 32 * (256 + 512) // 2 + 4 * 32 * (256 + 512) // 64
    assert all(isinstance(factor, Matrix) for factor in q.factors)
    assert type(q.right_matrix) is Integer


def test_balanced_factors_round_far_better_than_the_singular_vectors() -> None:
    steep = torch.logspace(0, -2, 32, dtype=F64)
    u, v = (torch.linalg.qr(randn(n, 32, seed=n)).Q for n in (256, 384))
    a = LowRank(u * steep, v.mT)

    def error(left: torch.Tensor, right: torch.Tensor) -> float:
        return float(((left @ right - a.dense()).norm() / a.dense().norm()).detach())

    q = a.quantize(bits=4)
    root = steep.sqrt()
    plain = [Integer.rounded(x, 4).dense().detach() for x in ((u * root).mT.contiguous(), root[:, None] * v.mT)]
    assert error(q.left.detach(), q.right.detach()) < 0.75 * error(plain[0].mT, plain[1])


def test_packed_factors_are_tensors_to_whoever_asks_and_products_do_not_open_them() -> None:
    q = lowrank(6, 9, F64).quantize(bits=6)
    torch.testing.assert_close(q.left @ q.right, q.dense())
    assert q.left.shape == (6, 3)
    mixed = LowRank(dense(6, 3, F64), randn(3, 9))
    torch.testing.assert_close(mixed(randn(4, 9)), randn(4, 9) @ mixed.dense().T)
    again = LowRank.concatenate([q, q]).recompress(k=3)
    torch.testing.assert_close(again.dense(), 2 * q.dense())


def test_a_parameter_of_a_plain_low_rank_can_be_replaced_and_is_saved_under_its_name() -> None:
    a = lowrank(4, 5, F64)
    assert list(a.state_dict()) == ["left", "right"]
    a.left = torch.nn.Parameter(torch.zeros(4, 3, dtype=F64))  # type: ignore[misc]
    assert not a.dense().any()
    assert sum(p.numel() for p in a.parameters()) == 4 * 3 + 3 * 5
