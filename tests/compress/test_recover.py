from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from clisonix.compress.layers import LiamEmbedding, LiamLinear
from clisonix.compress.recover import recover
from clisonix.compress.recover_fit import Progress
from clisonix.errors import ClisonixError
from clisonix.liam import Binary, BinaryAlgebra, Integer, LowRank, Matrix, Ternary, double_binary, svd_compress

FORMS: dict[str, Callable[[Tensor], Matrix]] = {
    "low rank": lambda w: svd_compress(w, k=4),
    "binary": Binary.nearest,
    "ternary": Ternary.nearest,
    "integer": lambda w: Integer.rounded(w, 2, 8),
    "packed low rank": lambda w: svd_compress(w, k=4).quantize(3, 8),
    "double binary": lambda w: double_binary(w, rank=10, iterations=3),
    "half precision": lambda w: double_binary(w, rank=10, iterations=3, dtype=torch.float16),
}


def teacher() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 10)).eval()


def compressed(dense: nn.Sequential, form: Callable[[Tensor], Matrix]) -> nn.Sequential:
    small = copy.deepcopy(dense)
    for place in (0, 2):
        layer = small[place]
        assert isinstance(layer, nn.Linear)
        small[place] = LiamLinear(form(layer.weight.detach()), layer.bias, dtype=torch.float32)
    return small


def batches(count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 16, generator=generator) for _ in range(count)]


def distance(model: nn.Module, dense: nn.Module, data: list[Tensor]) -> float:
    x = torch.cat(data)
    with torch.no_grad():
        return float((model(x) - dense(x)).square().sum() / dense(x).square().sum())


def layout(model: nn.Module) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_closer_to_its_teacher_and_keeps_its_structure(form: str) -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS[form])
    before = copy.deepcopy(small.state_dict())
    better = recover(small, dense, data, steps=100, lr=0.02, held_out=data)
    assert distance(better, dense, data) < 0.8 * distance(small, dense, data)
    assert layout(better) == layout(small)
    assert [type(m) for m in better.modules()] == [type(m) for m in small.modules()]
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items()), "the input changed"


@pytest.mark.parametrize("form", ["integer", "ternary", "binary"])
def test_levels_train_through_their_rounding_and_stay_if_asked_to(form: str) -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS[form])
    packed = [name for name, tensor in small.state_dict().items() if tensor.dtype == torch.uint8]
    assert packed

    def moved(through: bool) -> bool:
        new = recover(small, dense, data, steps=60, lr=0.05, straight_through=through).state_dict()
        return any(not torch.equal(new[name], small.state_dict()[name]) for name in packed)

    assert moved(True)
    assert not moved(False)


def test_the_same_seed_gives_the_same_model_and_another_one_another() -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS["integer"])
    one, same, other = (recover(small, dense, data, steps=15, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", ["low rank", "half precision"])
def test_never_worse_than_the_start_on_held_out_batches(form: str) -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS[form])
    told: list[Progress] = []
    # A rate at which nothing can be learned.
    wild = recover(small, dense, data, steps=20, lr=30.0, held_out=data, progress=told.append)
    assert distance(wild, dense, data) <= distance(small, dense, data) * (1 + 1e-6)
    assert max(p.held_out for p in told) > told[0].start == told[0].best


def test_what_comes_back_is_what_was_judged_best() -> None:
    dense, data = teacher(), batches()
    told: list[Progress] = []
    small = compressed(dense, FORMS["half precision"])
    better = recover(small, dense, data, steps=40, held_out=data, every=5, progress=told.append)
    assert distance(better, dense, data) == pytest.approx(told[-1].best, rel=0.05)
    assert [p.step for p in told] == list(range(0, 41, 5))
    assert told[-1].share == 1


def test_a_loss_that_stops_being_finite_ends_it_with_step_and_cause() -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS["low rank"])
    calls = itertools.count()

    def loss(ours: Tensor, theirs: Tensor, _: Tensor) -> Tensor:
        worth = (ours - theirs).square().mean()
        return worth * float("nan") if ours.requires_grad and next(calls) == 6 else worth

    with pytest.warns(UserWarning, match="stopped at step 7: the training loss is nan"):
        better = recover(small, dense, data, steps=40, loss=loss, every=2)
    assert distance(better, dense, data) < distance(small, dense, data)


def test_a_start_that_is_not_finite_is_refused() -> None:
    dense = teacher()
    small = compressed(dense, FORMS["low rank"])
    with pytest.raises(ClisonixError, match="nan before the first step"):
        recover(small, dense, [torch.full((2, 16), float("nan"))], steps=1)


def test_it_ends_by_the_clock() -> None:
    dense, data = teacher(), batches()
    told: list[Progress] = []
    recover(compressed(dense, FORMS["low rank"]), dense, data, cpu_minutes=0.5 / 60, progress=told.append)
    assert told[-1].step > 1
    assert told[-1].seconds < 30


def test_an_iterator_is_walked_once_and_a_stream_without_end_as_far_as_needed() -> None:
    dense = teacher()
    small = compressed(dense, FORMS["low rank"])
    told: list[Progress] = []
    recover(small, dense, iter(batches(9)), steps=100, every=1, progress=told.append)
    assert told[-1].step == 5  # four are held out

    class Endless:
        def __iter__(self) -> Iterator[Tensor]:
            return (torch.randn(8, 16, generator=torch.Generator().manual_seed(n)) for n in itertools.count())

    recover(small, dense, Endless(), steps=7, every=1, progress=told.append)
    assert told[-1].step == 7


def test_kl_brings_the_distributions_together() -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS["ternary"])
    x = torch.cat(data)

    def agreement(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == dense(x).argmax(1)).float().mean())

    assert agreement(recover(small, dense, data, steps=80, loss="kl", held_out=data)) > agreement(small) + 0.02


def test_hidden_outputs_count_when_they_are_named() -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS["integer"])
    with torch.no_grad():
        small[0].weight.scales.mul_(1.5)  # what rounding gave was the best already
    x = torch.cat(data)

    def inner(model: nn.Sequential) -> float:
        with torch.no_grad():
            return float((model[0](x) - dense[0](x)).square().mean())

    def nothing(ours: Tensor, theirs: Tensor, batch: Tensor) -> Tensor:
        return 0 * ours.sum()

    better = recover(small, dense, data, steps=60, loss=nothing, hidden=["0"], held_out=data)
    assert inner(better) < 0.8 * inner(small)
    with pytest.raises(ClisonixError, match="no module of the model"):
        recover(small, dense, data, steps=1, hidden=["O"])


def test_a_tied_matrix_stays_tied_and_a_table_keeps_its_levels() -> None:
    class Tied(nn.Module):
        def __init__(self, table: nn.Module, head: nn.Module) -> None:
            super().__init__()
            self.table, self.head = table, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    table = nn.Embedding(20, 8)
    head = nn.Linear(8, 20, bias=False)
    head.weight = table.weight
    matrix = BinaryAlgebra().quantize(table.weight.detach(), bits=2, group=8)
    small = Tied(LiamEmbedding(matrix), LiamLinear(matrix))
    data = [torch.randint(20, (64,), generator=torch.Generator().manual_seed(n)) for n in range(6)]
    better = recover(small, Tied(table, head), data, steps=30)
    assert better.table.weight is better.head.weight
    assert torch.equal(better.head.weight.planes, matrix.planes)
    assert not torch.equal(better.head.weight.scales, matrix.scales)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "no end was given"),
        ({"steps": 0}, "steps=0 is no end"),
        ({"minutes": float("nan")}, "minutes=nan is no end"),
        ({"steps": 1, "loss": "kld"}, "the loss 'kld' is unknown"),
        ({"steps": 1, "lr": 0.0}, "give at least 1 step and a rate above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(given: dict[str, object], sentence: str) -> None:
    dense = teacher()
    with pytest.raises(ClisonixError, match=sentence):
        recover(compressed(dense, FORMS["low rank"]), dense, batches(2), **given)  # type: ignore[arg-type]


def test_data_that_is_none_is_refused() -> None:
    dense = teacher()
    small = compressed(dense, FORMS["low rank"])
    with pytest.raises(ClisonixError, match="gave no batches"):
        recover(small, dense, [], steps=1)
    with pytest.raises(ClisonixError, match="give an iterable of batches"):
        recover(small, dense, torch.ones(2, 16), steps=1)
    with pytest.raises(ClisonixError, match="same outputs"):
        recover(small, nn.Linear(16, 3), batches(2), steps=1)


def test_frozen_parameters_stay_and_a_frozen_model_is_refused() -> None:
    dense, data = teacher(), batches()
    small = compressed(dense, FORMS["low rank"])
    assert isinstance(small[0].weight, LowRank)
    small[0].requires_grad_(False)
    better = recover(small, dense, data, steps=10, held_out=data)
    assert torch.equal(better[0].weight.left, small[0].weight.left)
    with pytest.raises(ClisonixError, match="requires a gradient"):
        recover(small.requires_grad_(False), dense, data, steps=1)
