"""What options promise - bytes, errors - is what the matrices made of them have."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from clisonix.compress.building import build
from clisonix.compress.forms import KEEP, Form, form_of
from clisonix.compress.moments import Moment
from clisonix.compress.options import FAMILIES, Option, corrected, families, frontier, options
from clisonix.compress.weighing import Weighing, weighing
from clisonix.errors import ClisonixError


def coloured(m: int, n: int, seed: int = 0) -> tuple[Tensor, Moment]:
    """A weight with a decaying spectrum and inputs of which few directions carry most."""
    g = torch.Generator().manual_seed(seed)
    decay = torch.arange(1, min(m, n) + 1).float()
    left, right = (torch.linalg.qr(torch.randn(k, min(m, n), generator=g)).Q for k in (m, n))
    weight = (left / decay.sqrt()) @ right.mT
    mixed = torch.randn(400, n, generator=g) * (torch.arange(1, n + 1).float() ** -0.5)
    x = mixed @ torch.linalg.qr(torch.randn(n, n, generator=g)).Q
    moment = Moment("w.weight", (m, n))
    found = moment.gram(iter([x]))
    assert found is not None
    moment.add(*found)
    return weight, moment


@pytest.fixture(scope="module")
def curve() -> tuple[Tensor, Weighing, list[Option]]:
    torch.set_num_threads(1)
    weight, moment = coloured(32, 40)
    metric = weighing("w.weight", weight, moment)
    return weight, metric, options("w.weight", weight, metric)


def spread(found: list[Option]) -> list[Option]:
    """A few of each family."""
    kinds: dict[Any, list[Option]] = {}
    for option in found:
        kinds.setdefault((option.form.kind, option.form.bits), []).append(option)
    return [option for family in kinds.values() for option in {id(o): o for o in (family[0], family[-1])}.values()]


def test_all_families_are_offered_and_keep_comes_last(curve: tuple[Tensor, Weighing, list[Option]]) -> None:
    weight, _, found = curve
    kinds = {(option.form.kind, option.form.kind == "lowrank" and option.form.bits is not None) for option in found}
    expected = {"lowrank", "integer", "ternary", "binary", "double binary", "sparse", "keep"}
    assert {kind for kind, _ in kinds} == expected
    assert ("lowrank", True) in kinds
    assert found[-1] == Option(KEEP, weight.nbytes, 0.0)
    assert all(option.nbytes < weight.nbytes for option in found[:-1])
    assert [option.nbytes for option in found] == sorted(option.nbytes for option in found)


def test_bytes_are_those_of_the_form_and_of_the_matrix(curve: tuple[Tensor, Weighing, list[Option]]) -> None:
    weight, metric, found = curve
    for option in spread(found[:-1]):
        assert option.nbytes == option.form.nbytes((32, 40)), option
        made = build(option.form, weight, metric)
        assert (made.nbytes, form_of(made)) == (option.nbytes, option.form)


def test_errors_are_near_those_of_the_matrices(curve: tuple[Tensor, Weighing, list[Option]]) -> None:
    """Low ranks are exact; what is rounded is told within a quarter, what is searched for within a factor."""
    weight, metric, found = curve
    for option in spread(found[:-1]):
        real = metric.error(weight, build(option.form, weight, metric).dense())
        form = option.form
        loose = {"integer": 1.3, "ternary": 1.3, "binary": 1.3, "sparse": 2.0, "double binary": 2.5}.get(
            form.kind, 1.002
        )
        if form.kind == "lowrank" and form.bits is not None:
            loose = 3.0
        assert real / loose <= option.error <= real * loose, (form, option.error, real)


def test_full_effort_measures_packed_low_ranks() -> None:
    weight, moment = coloured(32, 24)
    metric = weighing("w.weight", weight, moment)
    for effort, loose in (("full", 2.0), ("fast", 3.0)):
        found = options("w.weight", weight, metric, forms="packed low rank", effort=effort)  # type: ignore[arg-type]
        for option in spread(found[:-1]):
            real = metric.error(weight, build(option.form, weight, metric).dense())
            # Noise far below what is kept is told too large at full rank, where one factor makes up for the other.
            if real > 1e-4:
                assert real / loose <= option.error <= real * loose, (effort, option.form)


def test_output_weights_move_the_error() -> None:
    """A row that counts for nothing costs nothing to lose; the total is the energy that the loss sees."""
    weight, moment = coloured(6, 24)
    moment.weigh(torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]).expand(400, 6))
    metric = weighing("w.weight", weight, moment, with_loss=True)
    lost = weight.clone()
    lost[3:] = 0
    assert metric.error(weight, lost) < 1e-4 * metric.total
    inputs = moment.matrix
    assert inputs is not None
    expected = 400 * float(((weight[:3] @ inputs) * weight[:3]).sum())
    assert metric.total == pytest.approx(expected, rel=1e-4)


def test_rows_that_are_looked_up_often_count_for_more() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    moment = Moment("table.weight", (8, 16))
    moment.look_up(torch.tensor([2] * 50))
    metric = weighing("table.weight", weight, moment)
    often, seldom = weight.clone(), weight.clone()
    often[2], seldom[5] = 0, 0
    size = weight.square().sum(1)
    ratio = metric.error(weight, often) / metric.error(weight, seldom)
    assert ratio == pytest.approx(float(9 * size[2] / size[5]), rel=1e-3)


def test_forms_may_be_restricted_and_unknown_ones_are_named() -> None:
    weight, moment = coloured(16, 24)
    metric = weighing("w.weight", weight, moment)
    assert {o.form.kind for o in options("w", weight, metric, forms=["integer"])} == {"integer", "keep"}
    low = options("w", weight, metric, forms="low rank")
    assert {(o.form.kind, o.form.bits) for o in low} == {("lowrank", None), ("keep", None)}
    assert families(None) == set(FAMILIES)
    for bad in ("intger", ["integer", 3], []):
        with pytest.raises(ClisonixError, match=r"did you mean|valid are|forms is empty"):
            families(bad)  # type: ignore[arg-type]


def test_a_weight_that_is_mostly_zeros_is_kept_exactly_by_a_sparse_form() -> None:
    weight = torch.zeros(40, 50)
    places = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:60]
    weight.view(-1)[places] = torch.randn(60, generator=torch.Generator().manual_seed(1))
    metric = weighing("w", weight, None)
    best = next(o for o in options("w", weight, metric) if o.form.kind == "sparse" and o.error == 0)
    assert torch.equal(build(best.form, weight, metric).dense(), weight)


def test_the_frontier_falls_and_measuring_one_option_corrects_its_family() -> None:
    weight, moment = coloured(16, 24)
    found = options("w", weight, weighing("w", weight, moment), forms=["packed low rank", "integer"])
    falling = frontier(found)
    assert all(a.error > b.error and a.nbytes < b.nbytes for a, b in pairwise(falling))
    one = next(o for o in found if o.form.kind == "lowrank")
    after = corrected(found, one.form, 2 * one.error)
    for old, new in zip(found, after, strict=True):
        assert new.error == pytest.approx(old.error * (2 if old.form.kind == "lowrank" else 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    weight, moment = coloured(16, 24)
    weight = weight.to(dtype)
    metric = weighing("w", weight, moment)
    for option in spread(options("w", weight, metric, bits=8.0)[:-1]):
        made = build(option.form, weight, metric)
        assert (made.nbytes, made.dtype) == (option.nbytes, dtype)


def test_weights_that_are_not_finite_or_zero() -> None:
    with pytest.raises(ClisonixError, match="layer 'a' is not finite"):
        weighing("a.weight", torch.full((3, 3), float("nan")), None)
    zero = torch.zeros(16, 24)
    assert all(option.error == 0 for option in options("a", zero, weighing("a", zero, None)))


def test_a_form_that_is_not_made_from_a_weight_is_refused() -> None:
    weight = torch.ones(4, 4)
    with pytest.raises(ClisonixError, match="not made from a weight"):
        build(Form("diagonal"), weight, weighing("w", weight, None))
