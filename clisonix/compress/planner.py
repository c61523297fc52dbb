"""From a model and a budget to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from clisonix.compress.batches import Loss, check_batches
from clisonix.compress.budgets import UNITS, amount, check_objective
from clisonix.compress.calibrate import MASK_NOTE, gather
from clisonix.compress.choosing import Choosing
from clisonix.compress.costs import Costs
from clisonix.compress.forms import KEEP
from clisonix.compress.options import Effort, Option, families, options
from clisonix.compress.plans import LayerPlan, Plan
from clisonix.compress.prices import FileBudget, MeasuredBudget
from clisonix.compress.refine import Refined, refine
from clisonix.compress.sizes import spec_of, stored_tensors
from clisonix.compress.survey import Names, Site, survey
from clisonix.compress.workshop import Workshop
from clisonix.liam.matrix import Matrix

Progress = Callable[[str, int, int], None]
BLIND_NOTE = (
    "blind: no calibration was given, so errors suppose that every input direction of a layer is equally likely"
)
SAMPLE_NOTE = "errors are those on the calibration batches themselves; on new data they are larger"
LOSS_NOTE = "layers are weighed by the gradients of the loss"
NEVER_CALLED = "never called by the calibration data"
TOO_SMALL = "too small to gain: no form of it weighs less with its file header"
ROOM = "kept dense: nothing of what the budget buys is better spent elsewhere"
# Batches on which the true loss is taken.
_JUDGED = 4
_EVALUATIONS = 12


def plan(
    model: nn.Module,
    *,
    budget: float | int | str,
    objective: str = "bytes",
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    include: Names = None,
    exclude: Names = None,
    forms: str | Iterable[str] | None = None,
    effort: Effort = "fast",
    costs: Costs | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Choose a form for each weight so that the model meets a budget and loses least.

    What is made small is the sum over weights of the expected error, in one unit: see
    `clisonix.compress.weighing.Weighing`. Without a loss each layer's squared output error counts relative to its
    output; with one, by the gradients of the loss.

    Args:
        model: the dense model; it is not changed.
        budget: up to 1, a fraction of the dense model's cost; above 1, an amount of bytes, seconds or joules; or text
            such as "12 MB" or "3 ms". The file that `save` writes, header included, keeps a budget of bytes.
        objective: "bytes", "seconds" or "joules", the latter two for one pass over the first calibration batch.
        calibration: any finite iterable of batches of the model's inputs; see `clisonix.compress.batches.Feeder`.
            Layers that these batches never reach are kept. Without calibration the plan is blind.
        loss: `loss(output, target)` for batches `(inputs, target)`, else `loss(output, batch)`.
        include: names or patterns of the weights or modules that may be compressed (default: all).
        exclude: names or patterns of those to keep.
        forms: families of forms to choose from, see `clisonix.compress.options.FAMILIES`; all by default.
        effort: "full" measures what "fast" estimates, and moves bytes between layers as the true loss (without one,
            the outputs' distance from the dense model's) says.
        costs: measures seconds or joules; by default wall-clock time or, for joules, CPU time at a fixed power,
            remembered in the user's cache folder.
        progress: called with what is done, how far it is, and out of how many.

    Returns:
        The plan, for `compress`.

    Raises:
        ClisonixError: a budget that makes no sense or is out of reach, an unknown objective or layer name,
            calibration that does not suit the model.
    """
    return prepare(
        model,
        budget,
        Choices(objective, loss, include, exclude, forms, effort, costs),
        calibration=calibration,
        progress=progress,
    ).plan


@dataclass(frozen=True)
class Choices:
    """What `plan` is told beside model, budget and data: see there."""

    objective: str = "bytes"
    loss: Loss | None = None
    include: Names = None
    exclude: Names = None
    forms: str | Iterable[str] | None = None
    effort: Effort = "fast"
    costs: Costs | None = None


@dataclass
class Planned:
    """A plan, and what `compress` need not do again.

    Attributes:
        plan: for reading.
        sites: those that the plan compresses.
        workshop: where matrices are made.
        made: those that were made already.
    """

    plan: Plan
    sites: list[Site]
    workshop: Workshop
    made: dict[str, Matrix] = field(default_factory=dict)


def prepare(
    model: nn.Module,
    budget: float | int | str,
    choices: Choices,
    *,
    calibration: Iterable[Any] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Planned:
    """`plan`, together with what it rests on."""
    check_objective(choices.objective)
    wanted = families(choices.forms)
    say = progress or _silent
    sites = survey(model, include=choices.include, exclude=choices.exclude)
    tensors = tuple(spec_of(name, tensor) for name, tensor in stored_tensors(model).items())
    if choices.objective == "bytes":
        amount(budget, "bytes", 2.0)  # before anything takes long
    batches = _Kept(calibration)
    say("calibrate", 0, 1)
    moments = None if calibration is None else gather(model, sites, batches, loss=choices.loss)
    live = [s for s in sites if s.reason is None and (moments is None or moments[s.name].seen)]
    workshop = Workshop(live, moments, with_loss=choices.loss is not None, folder=folder)
    problem = (
        FileBudget(tensors, live, budget)
        if choices.objective == "bytes"
        else MeasuredBudget(model, live, budget, choices, batches.kept)
    )
    bits = problem.bits(sum(site.weight.numel() for site in live))
    curves: dict[str, list[Option]] = {}
    totals: dict[str, float] = {}
    for index, site in enumerate(live):
        say("options", index, len(live))
        weight, metric = workshop.open(site.name)
        found = options(site.name, weight, metric, forms=wanted, effort=choices.effort, bits=bits)
        curves[site.name], totals[site.name] = problem.priced(site, found), metric.total
    workshop.close()
    choosing = Choosing(problem, curves, workshop)
    chosen = choosing.choose(measure=True)
    notes = [BLIND_NOTE] if moments is None else [SAMPLE_NOTE, MASK_NOTE]
    if choices.loss is not None:
        notes.append(LOSS_NOTE)
    if choices.effort == "full" and batches.kept:
        refined: Refined = refine(model, live, choosing, chosen, batches.kept, choices.loss, _EVALUATIONS)
        chosen = refined.chosen
        notes.append(refined.note)
    if isinstance(problem, MeasuredBudget):
        chosen = problem.settled(choosing, chosen)
    made = Plan(
        layers=tuple(_entry(site, chosen.get(site.name), curves, totals, moments is not None) for site in sites),
        tensors=tensors,
        budget=problem.budget,
        calibrated=moments is not None,
        objective=choices.objective,
        notes=(*notes, *problem.notes),
        cost_before=problem.dense,
        cost_after=problem.exact(chosen),
        unit=UNITS[choices.objective],
    )
    compressed = [site for site in live if chosen[site.name].form != KEEP]
    kept = {name: matrix for (name, form), matrix in choosing.made.items() if chosen[name].form == form}
    return Planned(made, compressed, workshop, kept)


class _Kept:
    """Batches, the first few of which are held: they are needed again."""

    def __init__(self, batches: Iterable[Any] | None) -> None:
        if batches is not None:
            check_batches(batches)
        self._batches = batches
        self.kept: list[Any] = []

    def __iter__(self) -> Any:  # noqa: ANN401
        for batch in self._batches if self._batches is not None else ():
            if len(self.kept) < _JUDGED:
                self.kept.append(batch)
            yield batch


def _entry(
    site: Site,
    option: Option | None,
    curves: Mapping[str, list[Option]],
    totals: Mapping[str, float],
    calibrated: bool,
) -> LayerPlan:
    form = KEEP if option is None else option.form
    reason = site.reason
    if reason is None and option is None:
        reason = NEVER_CALLED if calibrated else TOO_SMALL
    if option is not None and form == KEEP:
        most = curves[site.name][-1].cost or 0.0
        gains = any(o.form != KEEP and (o.cost or 0.0) < most for o in curves[site.name])
        reason = ROOM if gains else TOO_SMALL
    total = totals.get(site.name, 0.0)
    return LayerPlan(
        name=site.name,
        kind=site.kind,
        shape=site.shape,
        form=form,
        bytes_before=site.nbytes,
        bytes_after=site.nbytes if option is None else option.nbytes,
        error=0.0 if option is None or total == 0 else option.error / total,
        reason=reason,
        tied=tuple(place.name for place in site.places[1:]),
    )


def _silent(_what: str, _done: int, _total: int) -> None:
    pass
