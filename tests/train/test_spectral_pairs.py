"""A product of two factors takes steps that depend on the product alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clisonix.liam import LowRank
from clisonix.train import Spectral

M, N, R = 12, 20, 4


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    left, right, target = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((M, R), (R, N), (M, N)))
    return left, right, target, torch.linspace(1, 3, N, dtype=torch.float64)


def trajectory(left: Tensor, right: Tensor, *, steps: int = 12, seed: int = 0, **options: object) -> list[Tensor]:
    """The product after each step of a weighted least squares fit."""
    *_, target, weight = problem(seed)
    a = LowRank(left.clone(), right.clone())
    optimiser = Spectral(a, **{"lr": 0.05, **options})  # type: ignore[arg-type]
    assert optimiser.param_groups[0]["kind"] == "lowrank"
    products = []
    for _ in range(steps):
        optimiser.zero_grad()
        ((a.dense() - target) * weight).square().sum().backward()
        optimiser.step()
        products.append(a.dense().detach())
    return products


@given(st.floats(-6, 6), st.booleans())
@settings(max_examples=15, deadline=None)
def test_how_the_scale_is_split_does_not_matter(exponent: float, nesterov: bool) -> None:
    left, right, *_ = problem()
    c = 10.0**exponent
    one = trajectory(left, right, nesterov=nesterov)
    other = trajectory(left * c, right / c, nesterov=nesterov)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_a_rotation_between_the_factors_does_not_matter() -> None:
    left, right, *_ = problem()
    turn, _ = torch.linalg.qr(torch.randn(R, R, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    for a, b in zip(trajectory(left, right), trajectory(left @ turn, turn.T @ right), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_lopsided_factors_are_brought_together_without_changing_the_product_by_a_bit() -> None:
    left, right, *_ = problem()
    a = LowRank(left.float() * 2.0**12, right.float() / 2.0**12)
    before = a.dense().detach().clone()
    optimiser = Spectral(a, lr=0.0)
    for _ in range(2):
        a.dense().sum().backward()
        optimiser.step()
    assert torch.equal(a.dense(), before)
    assert 1 / 4 < float((a.left.norm() / a.right.norm()).detach()) < 4


@given(st.integers(0, 50), st.floats(0.001, 0.3))
@settings(max_examples=15, deadline=None)
def test_a_step_moves_the_product_by_no_more_than_that_of_a_whole_matrix(seed: int, lr: float) -> None:
    """First order at most the step, second order at most a quarter, and singular values up to 1.21 in place of 1."""
    left, right, *_ = problem(seed)
    previous = left @ right
    step = lr * 0.2 * N**0.5
    for product in trajectory(left, right, lr=lr, weight_decay=0.0, seed=seed):
        moved = float(torch.linalg.matrix_norm(product - previous, ord=2))
        assert moved < step * (1.21 + 0.25 * 1.21**2)
        previous = product


def test_well_conditioned_factors_move_by_what_is_intended() -> None:
    """With many steps of a convergent iteration, each factor moves the product by half the step."""
    left, right, *_ = problem()
    left, right = torch.linalg.qr(left)[0] * 10, torch.linalg.qr(right.T)[0].T * 10
    a = LowRank(left, right)
    optimiser = Spectral(
        a, lr=1e-4, adjust_lr=None, weight_decay=0.0, ns_steps=30, ns_coefficients=(1.875, -1.25, 0.375)
    )
    before = [x.detach().clone() for x in (a.left, a.right)]
    (a.dense() * torch.randn(M, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).sum().backward()
    optimiser.step()
    for moved in ((a.left - before[0]) @ before[1], before[0] @ (a.right - before[1])):
        values = torch.linalg.svdvals(moved)[:R]
        torch.testing.assert_close(values, torch.full_like(values, 0.5e-4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("zero", ["left", "right"])
def test_a_factor_that_starts_at_zero_gets_going(zero: str) -> None:
    left, right, target, weight = problem()
    start = (torch.zeros_like(left), right / 4) if zero == "left" else (left / 4, torch.zeros_like(right))
    products = trajectory(*start, steps=120)
    size = ((target) * weight).norm()
    assert all(product.isfinite().all() for product in products)
    assert ((products[-1] - target) * weight).norm() < 0.8 * size


def test_a_lone_gradient_moves_one_factor() -> None:
    a = LowRank(*problem()[:2])
    optimiser = Spectral(a, weight_decay=0.0)
    left = a.left.detach().clone()
    a.right.grad = torch.ones_like(a.right)
    optimiser.step()
    assert torch.equal(a.left, left)
    assert optimiser.state[a.right]


def test_products_of_one_shape_are_stepped_together_as_they_would_be_alone() -> None:
    torch.manual_seed(0)
    many = nn.ModuleList(LowRank(torch.randn(M, R), torch.randn(R, N)) for _ in range(3))
    alone = [LowRank(a.left.detach().clone(), a.right.detach().clone()) for a in many]
    for a, b in zip(many, alone, strict=True):
        a.dense().square().sum().backward()
        b.dense().square().sum().backward()
        Spectral(b).step()
    Spectral(many).step()
    for a, b in zip(many, alone, strict=True):
        torch.testing.assert_close(a.dense(), b.dense())


def test_momentum_in_bytes_is_balanced_too() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(300, 16), torch.randn(16, 300)
    target = torch.randn(300, 300)
    products = []
    for c in (1.0, 2.0**10):
        a = LowRank(left * c, right / c)
        optimiser = Spectral(a, lr=0.01, state_bits=8)
        for _ in range(5):
            optimiser.zero_grad()
            (a.dense() - target).square().mean().backward()
            optimiser.step()
        products.append(a.dense().detach())
    # A power of two and scales in floating point: the same bits on both ways.
    assert torch.equal(*products)
