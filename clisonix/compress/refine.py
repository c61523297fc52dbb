"""Moving bytes between weights as the true loss says, after a first choice by expected errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clisonix.compress.batches import Feeder, Loss, tensors_in
from clisonix.compress.calibrate import watched
from clisonix.compress.forms import KEEP, Form
from clisonix.compress.options import Option
from clisonix.compress.survey import Site
from clisonix.liam.matrix import Matrix

# How much more or less a weight may count than was expected.
_LEAST, _MOST = 1 / 16, 16.0


class Choosing(Protocol):
    """What can choose anew and make matrices."""

    def choose(self, *, measure: bool, factors: Mapping[str, float] | None = None) -> dict[str, Option]:
        """The best choice if the expected error of each weight counts `factors` times."""

    def matrix(self, name: str, form: Form) -> Matrix:
        """A weight in a form."""


@dataclass(frozen=True)
class Refined:
    """What refinement found.

    Attributes:
        chosen: the best choice met.
        before: the loss of the first one.
        after: that of the best one.
        dense: that of the dense model.
        evaluations: times that the loss was taken.
    """

    chosen: dict[str, Option]
    before: float
    after: float
    dense: float
    evaluations: int

    @property
    def note(self) -> str:
        """For the plan."""
        return (
            f"refined on the true loss in {self.evaluations} evaluations: {self.before:.6g} to {self.after:.6g} "
            f"(dense {self.dense:.6g})"
        )


class Judge:
    """The true loss of a model some of whose weights are replaced by the entries of matrices.

    Args:
        model: the dense model.
        sites: of its weights.
        batches: on which the loss is taken.
        loss: as for `gather`; without one, the squared distance of the outputs from the dense model's, relative to
            their size.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], batches: Sequence[Any], loss: Loss | None) -> None:
        self.model, self.batches = model, batches
        self.sites = {site.name: site for site in sites}
        self.evaluations = 0
        self._feeder = Feeder(model, loss)
        self._wanted: list[list[Tensor]] = []
        if loss is None:
            with watched(model, sites), torch.no_grad():
                self._wanted = [tensors_in(self._feeder.output(self._feeder.moved(batch))) for batch in batches]

    @torch.no_grad()
    def value(self, matrices: Mapping[str, Matrix]) -> float:
        """The mean loss with these matrices in the place of their weights."""
        self.evaluations += 1
        total = 0.0
        with self._replaced(matrices), watched(self.model, list(self.sites.values())):
            for index, batch in enumerate(self.batches):
                batch = self._feeder.moved(batch)
                output = self._feeder.output(batch)
                if self._feeder.loss is not None:
                    total += float(self._feeder.value(output, batch))
                    continue
                for got, wanted in zip(tensors_in(output), self._wanted[index], strict=True):
                    size = float(wanted.double().square().sum())
                    total += float((got.double() - wanted.double()).square().sum()) / max(size, 1e-30)
        return total / len(self.batches)

    @contextmanager
    def _replaced(self, matrices: Mapping[str, Matrix]) -> Iterator[None]:
        held = {}
        try:
            for name, matrix in matrices.items():
                site = self.sites[name]
                held[name] = site.tensor.data
                entries = matrix.dense().detach().to(site.tensor.dtype)
                site.tensor.data = (entries.mT if site.flipped else entries).reshape(site.tensor.shape).contiguous()
            yield
        finally:
            for name, data in held.items():
                self.sites[name].tensor.data = data


def refine(
    model: nn.Module,
    sites: Sequence[Site],
    choosing: Choosing,
    chosen: dict[str, Option],
    batches: Sequence[Any],
    loss: Loss | None,
    evaluations: int,
) -> Refined:
    """Find out how much single weights really matter, and exchange bytes between them as long as that helps.

    Half of the evaluations put one weight back as it was, those first that are expected to lose most. Where the
    loss falls by more than its share of the expected error, the weight counts for more from then on, and bytes move
    to it from weights that count for less; each such exchange is kept only if the true loss is lower.

    Args:
        model: the dense model; its weights are put back whatever happens.
        sites: of its weights.
        choosing: chooses anew.
        chosen: the first choice.
        batches: on which the loss is taken.
        loss: see `Judge`.
        evaluations: of the loss, at most.
    """
    judge = Judge(model, sites, batches, loss)

    def matrices(choice: Mapping[str, Option]) -> dict[str, Matrix]:
        return {name: choosing.matrix(name, o.form) for name, o in choice.items() if o.form != KEEP}

    dense = judge.value({})
    held = matrices(chosen)
    before = best = judge.value(held)
    suspects = sorted((name for name in held), key=lambda name: -chosen[name].error)
    expected, found = {}, {}
    for name in suspects[: max(0, evaluations // 2)]:
        others = {other: matrix for other, matrix in held.items() if other != name}
        expected[name], found[name] = chosen[name].error, max(before - judge.value(others), 0.0)
    if not any(found.values()) or not any(expected.values()):
        return Refined(chosen, before, best, dense, judge.evaluations)
    unit = sum(found.values()) / sum(expected.values())
    ratios = {name: found[name] / (unit * expected[name]) for name in found if expected[name] > 0}
    tried = {_key(chosen)}
    power = 1.0
    while judge.evaluations < evaluations + 2 and power > 0.1:
        factors = {name: min(max(ratio, _LEAST), _MOST) ** power for name, ratio in ratios.items()}
        offer = choosing.choose(measure=True, factors=factors)
        power /= 2
        if _key(offer) in tried:
            continue
        tried.add(_key(offer))
        value = judge.value(matrices(offer))
        if value < best:
            chosen, best = offer, value
    return Refined(chosen, before, best, dense, judge.evaluations)


def _key(chosen: Mapping[str, Option]) -> tuple[tuple[str, Form], ...]:
    return tuple((name, option.form) for name, option in sorted(chosen.items(), key=lambda item: item[0]))
