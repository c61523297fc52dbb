"""The optimiser by itself: what it must agree with, and what it must survive."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.optim._muon as torch_muon
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.train import Spectral

Loss = Callable[[nn.Module, int], Tensor]


class Wide(Tensor):
    """Stays in its type where torch's Newton-Schulz asks for bfloat16."""

    def bfloat16(self) -> Wide:  # type: ignore[override]
        return self.clone()


@pytest.fixture
def muon_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own Muon, its iteration in the type of the parameters."""
    theirs = torch_muon._zeropower_via_newtonschulz
    monkeypatch.setattr(
        torch_muon,
        "_zeropower_via_newtonschulz",
        lambda grad, *rest: theirs(grad.as_subclass(Wide), *rest).as_subclass(Tensor),
    )


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(1)
    sizes = (8, 24, 24, 6, 24, 3)
    return nn.Sequential(*[nn.Linear(m, n) for m, n in itertools.pairwise(sizes)]).to(dtype)


def loss_of(model: nn.Module, step: int) -> Tensor:
    dtype = next(model.parameters()).dtype
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return (model(x.to(dtype)) - x[:, :3].sin().to(dtype)).float().square().mean()


def run(model: nn.Module, *optimisers: torch.optim.Optimizer, steps: range = range(15), loss: Loss = loss_of) -> None:
    for step in steps:
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss(model, step).backward()
        for optimiser in optimisers:
            optimiser.step()


def apart(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def torchs(model: nn.Module, **settings: Any) -> list[torch.optim.Optimizer]:
    matrices, rest = [[p for p in model.parameters() if (p.ndim == 2) is is_matrix] for is_matrix in (True, False)]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, **settings),
        torch.optim.AdamW(rest, lr=0.02, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@pytest.mark.usefixtures("muon_in_full")
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_it_goes_where_torchs_muon_goes(adjust: Any, nesterov: bool) -> None:
    theirs, ours = network(), network()
    run(theirs, *torchs(theirs, adjust_lr_fn=adjust, nesterov=nesterov))
    run(ours, Spectral(ours.parameters(), lr=0.02, weight_decay=0.1, adjust_lr=adjust, nesterov=nesterov))
    assert apart(theirs, ours) < 1e-12


def test_in_bfloat16_it_stays_as_near_to_torchs_muon_as_that_type_allows() -> None:
    theirs, ours = network(torch.float32), network(torch.float32)
    before = copy.deepcopy(theirs)
    run(theirs, *torchs(theirs), steps=range(1))
    run(
        ours,
        Spectral(ours.parameters(), lr=0.02, weight_decay=0.1, adjust_lr="original", ns_dtype=torch.bfloat16),
        steps=range(1),
    )
    assert apart(theirs, ours) < 0.05 * apart(theirs, before)


def test_vectors_go_where_torchs_adamw_goes() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)).double()
    theirs, ours = model, copy.deepcopy(model)
    run(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02, betas=(0.9, 0.95), weight_decay=0.1))
    run(ours, Spectral([{"params": list(ours.parameters()), "kind": "adamw"}], lr=0.02, weight_decay=0.1))
    assert apart(theirs, ours) < 1e-14


@pytest.mark.usefixtures("muon_in_full")
def test_kernels_pieces_and_stacks_are_steps_of_their_matrices() -> None:
    torch.manual_seed(0)
    kernel, cut, stack = (torch.randn(*s, dtype=torch.float64) for s in ((6, 4, 3), (12, 5), (3, 4, 5)))
    expected = [
        nn.Parameter(x.clone())
        for x in (kernel.reshape(6, 12), *cut.reshape(3, 4, 5).unbind(), *stack.unbind())
    ]  # fmt: skip
    gradients = [torch.randn_like(p) for p in expected]
    for p, gradient in zip(expected, gradients, strict=True):
        p.grad = gradient
    torch.optim.Muon(expected, lr=0.1, adjust_lr_fn="original").step()
    ours = [nn.Parameter(x) for x in (kernel, cut, stack)]
    for p, gradient in zip(ours, (gradients[0], torch.cat(gradients[1:4]), torch.stack(gradients[4:])), strict=True):
        p.grad = gradient.reshape(p.shape)
    groups = [{"params": ours[:1]}, {"params": ours[1:2], "pieces": 3}, {"params": ours[2:], "stack": True}]
    Spectral(groups, lr=0.1, weight_decay=0.1, adjust_lr="original").step()
    torch.testing.assert_close(ours[0].reshape(6, 12), expected[0])
    torch.testing.assert_close(ours[1], torch.cat(expected[1:4]))
    torch.testing.assert_close(ours[2], torch.stack(expected[4:]))


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_is_saved_and_loaded_ends_in_the_same_bits(bits: Any, dtype: torch.dtype) -> None:
    def make() -> tuple[nn.Module, Spectral]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 96), nn.Linear(96, 96), nn.Linear(96, 3)).to(dtype)
        return model, Spectral(model, state_bits=bits)

    straight, optimiser = make()
    run(straight, optimiser, steps=range(8))
    first, optimiser = make()
    run(first, optimiser, steps=range(4))
    file = io.BytesIO()
    torch.save((first.state_dict(), optimiser.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second, optimiser = make()
    second.load_state_dict(weights)
    optimiser.load_state_dict(state)
    kept = [x.clone() for each in state["state"].values() for x in each.values()]
    run(second, optimiser, steps=range(4, 8))
    assert apart(straight, second) == 0
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (x for s in state["state"].values() for x in s.values()), strict=True)
    )


def test_bfloat16_parameters_are_rounded_once_after_a_step_in_float32() -> None:
    low, high = network(torch.bfloat16), network(torch.bfloat16).float()
    for p, q in zip(low.parameters(), high.parameters(), strict=True):
        q.grad = torch.randn(q.shape).bfloat16().float()
        p.grad = q.grad.bfloat16()
    Spectral(low, lr=0.02).step()
    Spectral(high, lr=0.02).step()
    for p, q in zip(low.parameters(), high.parameters(), strict=True):
        assert torch.equal(p, q.bfloat16())


def test_momentum_in_bytes_goes_nearly_the_same_way() -> None:
    def make(bits: Any) -> tuple[nn.Linear, Spectral]:
        torch.manual_seed(0)
        layer = nn.Linear(96, 64, bias=False)
        return layer, Spectral(Spectral.groups(layer, head=False), lr=2e-3, state_bits=bits)

    (full, in_full), (small, in_bytes) = make(32), make(8)
    start = full.weight.detach().clone()
    target = torch.randn(64, 96)

    def loss(layer: nn.Module, step: int) -> Tensor:
        x = torch.randn(256, 96, generator=torch.Generator().manual_seed(step))
        return (layer(x) - x @ target.T).square().mean()

    run(full, in_full, steps=range(60), loss=loss)
    run(small, in_bytes, steps=range(60), loss=loss)
    assert in_bytes.state_bytes < 0.27 * in_full.state_bytes
    assert (small.weight - full.weight).norm() < 0.1 * (full.weight - start).norm()


def test_state_in_bytes_learns_as_well() -> None:
    """Where gradients have low rank, rounding fills the other directions: the way differs, not the end."""
    losses = []
    for bits in (32, 8):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 3))
        before = loss_of(model, 100).item()
        run(model, Spectral(model, lr=1e-2, state_bits=bits), steps=range(100))  # type: ignore[arg-type]
        losses.append(sum(loss_of(model, step).item() for step in range(100, 110)) / 10 / before)
    assert losses[0] < 0.1
    assert losses[1] < 1.2 * losses[0]


def test_adamw_in_bytes_goes_nearly_the_same_way() -> None:
    def make(bits: Any) -> tuple[nn.Embedding, Spectral]:
        torch.manual_seed(0)
        table = nn.Embedding(200, 32)
        return table, Spectral(table, lr=1e-2, state_bits=bits)

    (full, in_full), (small, in_bytes) = make(32), make(8)
    start = full.weight.detach().clone()
    for step in range(80):
        rows = torch.randint(0, 200, (64,), generator=torch.Generator().manual_seed(step))
        for table, optimiser in ((full, in_full), (small, in_bytes)):
            optimiser.zero_grad()
            # Entries of a block differ by decades.
            (table(rows) * torch.logspace(-0.5, 0.5, 32)).square().sum().backward()
            optimiser.step()
    assert in_bytes.state_bytes < 0.27 * in_full.state_bytes
    assert (small.weight - full.weight).norm() < 0.1 * (full.weight - start).norm()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite(bad: float) -> None:
    model = network()
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model[2].weight.grad[3, 1] = bad  # type: ignore[union-attr, index, operator]
    with pytest.raises(ClisonixError, match=r"gradient of 2\.weight has entries that are NaN or infinite"):
        Spectral(model).step()
    with pytest.raises(ClisonixError, match=r"gradient of parameter 2 of group 0"):
        Spectral(model.parameters()).step()
    skipping = Spectral(model, nonfinite="skip")
    skipping.step()
    assert skipping.skipped == 1
    assert apart(model, before) == 0
    Spectral(model, nonfinite="ignore").step()
    assert model[2].weight.isnan().any()


def test_sparse_gradients_and_other_types_are_refused() -> None:
    table = nn.Embedding(10, 4, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ClisonixError, match=r"gradient of weight is torch\.sparse_coo"):
        Spectral(table).step()
    with pytest.raises(ClisonixError, match="complex64"):
        Spectral([nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))])


def test_parameters_without_gradient_stay() -> None:
    model = network()
    before = copy.deepcopy(model)
    optimiser = Spectral(model)
    optimiser.step()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimiser.step()
    moved = [
        name for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True) if (p != q).any()
    ]
    assert moved == ["0.weight"]


def test_a_closure_is_called_with_gradients() -> None:
    model = network()
    optimiser = Spectral(model)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    first = optimiser.step(closure)  # type: ignore[arg-type]
    assert first is not None
    assert optimiser.step(closure) < first  # type: ignore[arg-type]


def test_a_scheduler_steers_every_group() -> None:
    model = network()
    optimiser = Spectral(model, lr=0.1, adamw_lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0, end_factor=0.0, total_iters=2)
    run(model, optimiser, steps=range(1))
    assert sorted({group["lr"] for group in optimiser.param_groups}) == [0.01, 0.1]
    for _ in range(2):
        optimiser.step()
        scheduler.step()
    before = copy.deepcopy(model)
    run(model, optimiser, steps=range(1))
    assert apart(model, before) == 0


def test_the_learning_rate_may_be_a_tensor() -> None:
    one, other = network(), network()
    run(one, Spectral(one, lr=0.01), steps=range(2))
    run(other, Spectral(other, lr=torch.tensor(0.01, dtype=torch.float64)), steps=range(2))
    assert apart(one, other) == 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"state_bits": 4}, "state_bits=4"),
        ({"adjust_lr": "rms"}, "adjust_lr='rms'"),
        ({"nonfinite": "skp"}, "did you mean 'skip'"),
        ({"betas": (0.9, 1.0)}, "betas"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ClisonixError, match=complaint):
        Spectral(network(), **settings)


def test_groups_that_make_no_sense_are_refused() -> None:
    matrix, vector = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4))
    for group, complaint in (
        ({"params": [matrix, vector]}, "holds matrices and vectors"),
        ({"params": [matrix], "kind": "matrx"}, "did you mean 'matrix'"),
        ({"params": [vector], "kind": "matrix"}, "cannot be 1 matrices"),
        ({"params": [matrix], "pieces": 3}, "cannot be 3 matrices"),
        ({"params": [matrix, matrix.T.detach()], "kind": "lowrank"}, None),
        ({"params": [matrix], "kind": "lowrank"}, "factors in turn"),
    ):
        if complaint is None:
            Spectral([group])
            continue
        with pytest.raises(ClisonixError, match=complaint):
            Spectral([group])
    with pytest.raises(ClisonixError, match="one tensor"):
        Spectral(matrix)
