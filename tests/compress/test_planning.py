"""Planning and compressing as a whole: budgets are met, nothing depends on chance, interruptions cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import make
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress import Plan, compress, plan, save
from clisonix.compress.budgets import amount
from clisonix.compress.forms import KEEP
from clisonix.compress.workshop import Workshop
from clisonix.errors import ClisonixError


def wide(width: int = 48, depth: int = 4) -> tuple[nn.Module, Tensor]:
    """Layers of unequal worth: some of low rank, some not."""
    g = torch.Generator().manual_seed(5)
    layers: list[nn.Module] = []
    for index in range(depth):
        layer = nn.Linear(width, width)
        with torch.no_grad():
            rank = 4 if index % 2 else width
            left, right = torch.randn(width, rank, generator=g), torch.randn(rank, width, generator=g)
            layer.weight.copy_(left @ right / (width * rank) ** 0.5)
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers), torch.randn(200, width, generator=g)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("share", [0.12, 0.2])
def test_a_budget_of_bytes_is_used_to_within_one_percent(share: float, file: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(8)))
    x = torch.randn(100, 40) * torch.linspace(0.1, 2, 40)
    made = plan(model, budget=share, calibration=[x])
    small = compress(model, made, calibration=[x])
    save(small, file)
    assert 0.99 * made.budget <= file.stat().st_size <= made.budget
    assert file.stat().st_size == made.file_bytes == made.cost_after
    assert made.unit == "bytes"


def test_low_rank_weights_get_low_ranks_and_others_integers() -> None:
    model, x = wide()
    forms = plan(model, budget=0.2, calibration=[x]).forms
    assert {forms[f"{index}.weight"].kind for index in (2, 6)} == {"lowrank"}
    assert {forms[f"{index}.weight"].kind for index in (0, 4)} <= {"integer", "ternary", "binary"}


def test_a_plan_and_a_budget_give_the_same_model_every_time() -> None:
    model, x = wide()
    made = plan(model, budget=0.2, calibration=[x])
    assert plan(model, budget=0.2, calibration=[x]) == made
    by_plan, by_budget = compress(model, made, calibration=[x]), compress(model, 0.2, calibration=[x])
    assert same(by_plan, by_budget)
    assert same(by_budget, compress(model, budget=0.2, calibration=[x]))
    assert Plan.from_json(made.to_json()) == made


def test_errors_of_a_plan_are_those_of_its_layers() -> None:
    """For each layer alone: the relative squared error of its output, but for the ridge, as far as it is foretold."""
    model, x = wide(depth=1)
    made = plan(model, budget=0.2, calibration=[x])
    small = compress(model, made, calibration=[x])
    dense, given = (F.linear(x, weight) for weight in (model[0].weight, small[0].weight.dense()))
    real = float((dense - given).detach().square().sum() / dense.detach().square().sum())
    assert made.layers[0].error == pytest.approx(real, rel=0.3)


def test_with_a_loss_what_it_does_not_see_is_given_up() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.used(x), self.idle(x)], -1)

    torch.manual_seed(0)
    model, x = Two(), torch.randn(100, 32)
    made = plan(model, budget=0.2, calibration=[(x, x)], loss=lambda y, target: F.mse_loss(y[:, :32], target))
    sizes = {layer.name: layer.bytes_after for layer in made.layers}
    assert sizes["idle.weight"] < sizes["used.weight"]
    assert any("loss" in note for note in made.notes)


def test_forms_include_and_exclude_reach_compress() -> None:
    model, x = wide()
    small = compress(model, 0.5, calibration=[x], forms="low rank")
    assert {type(small[i].weight).__name__ for i in (2, 6)} == {"LowRank"}
    some = compress(model, 0.9, calibration=[x], include=["2", "4"], exclude="4")
    assert type(some[4]) is nn.Linear
    assert type(some[2]) is not nn.Linear
    made = plan(model, budget=0.5)
    with pytest.raises(ClisonixError, match="beside a plan"):
        compress(model, made, include="2")
    for call in ({}, {"plan_or_budget": 0.5, "budget": 0.5}):
        with pytest.raises(ClisonixError, match="a plan or a budget"):
            compress(model, **call)  # type: ignore[arg-type]


def test_an_interrupted_compression_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = wide()
    whole = compress(model, 0.15, calibration=[x])
    made: list[str] = []
    real = Workshop.make

    def stops(self: Workshop, name: str, form: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(name)
        return real(self, name, form)

    monkeypatch.setattr(Workshop, "make", stops)
    with pytest.raises(KeyboardInterrupt):
        compress(model, 0.15, calibration=[x], resume=tmp_path / "work")
    monkeypatch.setattr(Workshop, "make", real)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert len(kept) == 2
    assert same(compress(model, 0.15, calibration=[x], resume=tmp_path / "work"), whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    # Other weights, other data: nothing of the folder fits.
    files = len(list((tmp_path / "work").iterdir()))
    compress(model, 0.15, calibration=[x * 2 + 1], resume=tmp_path / "work")
    assert len(list((tmp_path / "work").iterdir())) > files


def test_a_damaged_work_folder_is_one_sentence(tmp_path: Path) -> None:
    model, x = wide(depth=1)
    compress(model, 0.3, calibration=[x], resume=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ClisonixError, match=r"is damaged .*delete it"):
        compress(model, 0.3, calibration=[x], resume=tmp_path)


def test_full_effort_refines_on_the_true_loss_and_says_by_how_much() -> None:
    """The second layer hardly reaches the output, which only the true loss can tell."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(48, 48), nn.Linear(48, 48)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + 1e-3 * self.second(x)

    torch.manual_seed(0)
    model, x = Gated(), torch.randn(150, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = plan(model, budget=0.2, calibration=[x])
    full = plan(model, budget=0.2, calibration=[x], effort="full")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def off(made: Plan) -> float:
        with torch.no_grad():
            y = model(x)
            return float((compress(model, made, calibration=[x])(x) - y).square().sum() / y.square().sum())

    assert off(full) < 0.5 * off(fast)
    assert full.layer("first.weight").bytes_after > fast.layer("first.weight").bytes_after
    assert any("refined on the true loss" in note for note in full.notes)
    assert full.file_bytes <= full.budget


def test_progress_is_told() -> None:
    model, x = wide(depth=2)
    said: list[tuple[str, int, int]] = []
    compress(model, 0.3, calibration=[x], progress=lambda what, done, total: said.append((what, done, total)))
    assert [what for what, _, _ in said] == ["calibrate", "options", "options", "compress", "compress", "compress"]
    assert said[-1] == ("compress", 2, 2)


def test_budgets_in_words() -> None:
    assert amount("2 kB", "bytes", 1e6) == 2000
    assert amount("3.5ms", "seconds", 1.0) == pytest.approx(3.5e-3)
    assert amount("20 mJ", "joules", 1.0) == pytest.approx(0.02)
    assert amount(1.0, "bytes", 777.0) == 777
    assert amount(0.25, "seconds", 0.8) == pytest.approx(0.2)
    for bad in ("half", "3 ms", "0 B", "-2 kB", "2", "", "1e999 B"):
        with pytest.raises(ClisonixError, match="the budget is"):
            amount(bad, "bytes", 1e6)


def test_a_fraction_of_one_keeps_everything() -> None:
    model, _ = make("mlp")
    made = plan(model, budget=1.0)
    assert made.forms == {}
    assert all(layer.form == KEEP for layer in made.layers)
