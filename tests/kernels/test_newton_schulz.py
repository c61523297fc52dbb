"""Batched orthogonalisation against the iteration one matrix at a time, and against what it is for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.newton_schulz import COEFFICIENTS, newton_schulz, orthogonalise, stacks


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one(x: Tensor, steps: int) -> Tensor:
    """The definition, for one matrix."""
    a, b, c = COEFFICIENTS
    y = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = y @ y.mT
        y = a * y + b * square @ y + c * square @ square @ y
    return y


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_stack_is_its_matrices_one_by_one(m: int, n: int, stack: int, steps: int, seed: int) -> None:
    x = randn(stack, m, n, seed=seed)
    expected = torch.stack([one(matrix, steps) for matrix in x])
    torch.testing.assert_close(newton_schulz(x, steps=steps), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(newton_schulz(x.mT, steps=steps), expected.mT, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(newton_schulz(x[0], steps=steps), expected[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 20, 30), (4, 30, 20), (3, 16, 100), (3, 100, 16), (2, 24, 24)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    x = randn(*shape).float()
    y = newton_schulz(x)
    values = torch.linalg.svdvals(y)
    spread = torch.linalg.svdvals(x) / torch.linalg.matrix_norm(x)[:, None]
    assert bool((values[spread > 0.01] > 0.5).all())
    assert bool((values < 1.3).all())
    # y = U f(S) V^T, so x^T y is symmetric.
    product = x.mT @ y if shape[1] <= shape[2] else y @ x.mT
    torch.testing.assert_close(product, product.mT, rtol=1e-3, atol=1e-3)


def test_it_agrees_with_the_optimiser_of_torch() -> None:
    muon = pytest.importorskip("torch.optim._muon", reason="this torch has no Muon")
    for shape in ((40, 24), (24, 40), (24, 100)):
        x = randn(*shape).float()
        theirs = muon._zeropower_via_newtonschulz(x, COEFFICIENTS, 5, 1e-7).float()
        # Theirs is in bfloat16 always.
        assert float((newton_schulz(x) - theirs).norm() / theirs.norm()) < 0.03
        assert float((newton_schulz(x, dtype=torch.bfloat16) - theirs).norm() / theirs.norm()) < 0.02


def test_zeros_stay_zeros_and_scale_does_not_matter() -> None:
    assert torch.equal(newton_schulz(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))
    x = randn(3, 5, 7).float()
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(newton_schulz(scale * x), newton_schulz(x), rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=12), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_grouping_changes_no_result_and_no_order(shapes: list[tuple[int, int]], stack_entries: int) -> None:
    matrices = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    groups = stacks(matrices, stack_entries)
    assert sorted(i for group in groups for i in group) == list(range(len(matrices)))
    for group in groups:
        assert len({tuple(sorted(matrices[i].shape)) for i in group}) == 1
        assert len(group) == 1 or len(group) * matrices[group[0]].numel() <= stack_entries
    results = orthogonalise(matrices, stack_entries=stack_entries)
    for matrix, result in zip(matrices, results, strict=True):
        torch.testing.assert_close(result, one(matrix, 5), rtol=1e-6, atol=1e-7)


def test_types_are_kept_apart_and_kept() -> None:
    results = orthogonalise([randn(3, 4).float(), randn(3, 4), randn(4, 3).half()])
    assert [r.dtype for r in results] == [torch.float32, torch.float64, torch.float16]
    assert [tuple(r.shape) for r in results] == [(3, 4), (3, 4), (4, 3)]


def test_what_cannot_be_orthogonalised_is_refused_in_a_sentence() -> None:
    with pytest.raises(ClisonixError, match=r"shape \(3,\)"):
        newton_schulz(torch.ones(3))
    with pytest.raises(ClisonixError, match="steps=0"):
        newton_schulz(torch.ones(3, 3), steps=0)
    with pytest.raises(ClisonixError, match="did you mean 'triton'"):
        newton_schulz(torch.ones(3, 3), backend="tritn")  # type: ignore[arg-type]
    with pytest.raises(ClisonixError, match="Tensor 1 has shape"):
        orthogonalise([torch.ones(3, 3), torch.ones(3)])
