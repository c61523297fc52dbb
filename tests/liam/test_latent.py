"""Packed matrices that learn through straight-through gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import FORMS, Make, binary, dense, diagonal, lowrank, randn
from torch.autograd import gradcheck

from clisonix.errors import ClisonixError
from clisonix.liam import (
    Binary,
    BlockDiagonal,
    Cat,
    Diagonal,
    LatentBinary,
    LatentTernary,
    LowRank,
    Matrix,
    Ternary,
    pack,
    unpack,
)

F64 = torch.float64
Latents = type[LatentBinary] | type[LatentTernary]
both = pytest.mark.parametrize("form", [LatentBinary, LatentTernary])


@given(st.sampled_from([Binary, Ternary]), st.integers(0, 6), st.integers(0, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_unpacking_and_packing_restores_every_bit(
    form: type[Binary] | type[Ternary], m: int, n: int, seed: int
) -> None:
    a = form.nearest(randn(m, n, seed=seed) * (randn(m, n, seed=seed + 1) > 0))
    learner = unpack(a)
    assert torch.equal(learner.dense(), a.dense())
    b = pack(learner)
    assert type(b) is form
    assert {k: v.tolist() for k, v in b.state_dict().items()} == {k: v.tolist() for k, v in a.state_dict().items()}
    # One set of scales serves both, so neither training nor an optimiser is disturbed.
    assert [id(p) for p in b.parameters()] == [id(p) for p in a.parameters()]


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
def test_every_form_keeps_its_map_through_unpack_and_pack(make: Make) -> None:
    a = make(6, 9, F64)
    learner = unpack(a)
    torch.testing.assert_close(learner.dense(), a.dense())
    again = pack(learner)
    torch.testing.assert_close(again.dense(), a.dense())
    assert again.nbytes <= a.nbytes


def test_unpacking_recurses_through_every_node_and_shares_the_rest() -> None:
    d, b, r = diagonal(6, F64), binary(6, 6, F64), lowrank(6, 6, F64)
    left, right = Binary.nearest(randn(6, 2)), Binary.nearest(randn(2, 6))
    a = 2 * (d @ b.T + r + LowRank(left, right)) + Cat(b, b)[3:9] + BlockDiagonal(b[:2, :2], b[2:, 2:])
    learner = unpack(a)
    forms = [type(module) for module in learner.modules()]
    assert Binary not in forms
    assert forms.count(LatentBinary) == 7
    assert {id(d.entries), id(r.left)} <= {id(p) for p in learner.parameters()}
    torch.testing.assert_close(learner.dense(), a.dense())
    torch.testing.assert_close(pack(learner).dense(), a.dense())


def test_what_has_no_latent_form_is_returned_itself() -> None:
    for a in (dense(3, 4, F64), diagonal(3, F64) @ lowrank(3, 4, F64), lowrank(8, 8, F64).quantize(bits=4)):
        assert unpack(a) is a
        assert pack(a) is a


def test_a_binary_has_the_methods_too() -> None:
    learner = binary(3, 4, F64).unpack()
    assert isinstance(learner, LatentBinary)
    assert isinstance(learner.pack(), Binary)
    assert isinstance(Ternary.nearest(randn(3, 4)).unpack(), LatentTernary)


@both
def test_gradients_pass_straight_through_where_they_lead_back(form: Latents) -> None:
    latent = torch.tensor([[0.3, -0.9, 2.0, 2.0, -3.0, -3.0]], dtype=F64)
    a = form(latent, torch.ones(1 if form is LatentBinary else (1, 1), dtype=F64))
    gradient = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]], dtype=F64)
    (a.dense() * gradient).sum().backward()
    assert a.latent.grad is not None
    # A step against the gradient brings the third and the last back towards ±1, the two between further out.
    assert a.latent.grad.tolist() == [[1.0, -2.0, 3.0, 0.0, 0.0, -6.0]]


@both
def test_gradients_of_scales_and_inputs_are_exact(form: Latents) -> None:
    start = form.nearest(randn(3, 5))

    def forward(x: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.func.functional_call
        return a(start, {"scales": scales}, (x,)), a(start.T, {"inner.scales": scales}, (x[:, :3],))

    inputs = randn(2, 5).requires_grad_(), start.scales.detach().requires_grad_()
    assert gradcheck(forward, inputs)


@both
def test_the_latent_gets_the_gradient_of_the_entry_times_its_scale(form: Latents) -> None:
    a, x, weights = form.nearest(randn(4, 6)), randn(5, 6), randn(5, 4, seed=1)
    (a(x) * weights).sum().backward()
    entry = weights.mT @ x
    assert a.latent.grad is not None
    torch.testing.assert_close(a.latent.grad, entry * a.scales.detach().reshape(4, 1))


@both
def test_not_a_number_is_neither_hidden_nor_packed(form: Latents) -> None:
    a = form.nearest(randn(4, 6))
    with torch.no_grad():
        a.latent[2, 3] = float("nan")
    assert a.dense()[2].isnan().any()
    assert a(randn(6))[2].isnan()
    with pytest.raises(ClisonixError, match="1 of 24 entries of latent are NaN"):
        a.pack()


def test_training_starts_from_the_nearest_packed_matrix() -> None:
    w = randn(6, 40)
    assert torch.equal(LatentBinary.nearest(w).dense(), Binary.nearest(w).dense())
    start = LatentTernary.nearest(w)
    error, best = float((start.dense() - w).norm().detach()), float((Ternary.nearest(w).dense() - w).norm().detach())
    assert best <= error <= 1.05 * best


def test_a_latent_and_scales_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(ClisonixError, match="give a scale for each row"):
        LatentBinary(randn(3, 4), randn(4))
    with pytest.raises(ClisonixError, match="2 dimensions"):
        LatentTernary(randn(3, 4), randn(3))


@both
def test_training_through_beats_packing_afterwards(form: Latents) -> None:
    # Correlated inputs: the best levels differ from those of the nearest matrix.
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(32, 32, generator=generator) * torch.logspace(0, -1.5, 32)
    x = torch.randn(512, 32, generator=generator) @ mix.T
    teacher = torch.randn(24, 32, generator=generator)
    target = x @ teacher.T

    def loss(a: Matrix) -> torch.Tensor:
        return (a(x) - target).square().mean() / target.square().mean()

    def trained(start: Matrix) -> float:
        a = Diagonal(torch.ones(24)) @ start @ Diagonal(torch.ones(32))
        optimiser = torch.optim.Adam(a.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
        for _ in range(300):
            optimiser.zero_grad()
            loss(a).backward()
            optimiser.step()
            schedule.step()
        return float(loss(pack(a)).detach())

    packed = form.nearest(teacher).pack()
    post_hoc, with_levels, scales_only = float(loss(packed).detach()), trained(packed.unpack()), trained(packed)
    assert with_levels < 0.4 * post_hoc
    assert with_levels < 0.6 * scales_only
