"""From a model and a budget to a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import nn

from clisonix.compress.allocate import Choice, Curve, OutOfReachError, allocate
from clisonix.compress.batches import Loss, check_batches
from clisonix.compress.budgets import UNITS, amount, check_objective
from clisonix.compress.calibrate import MASK_NOTE, gather
from clisonix.compress.costs import Costs, CpuTime, default_file
from clisonix.compress.forms import KEEP, Form
from clisonix.compress.options import Effort, Option, corrected, families, frontier, options
from clisonix.compress.plans import LayerPlan, Plan, planned_bytes
from clisonix.compress.refine import Refined, refine
from clisonix.compress.sizes import TensorSpec, spec_of, stored_tensors
from clisonix.compress.survey import Names, Site, survey
from clisonix.compress.timing import Timer
from clisonix.compress.workshop import Workshop
from clisonix.errors import ClisonixError
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
# Rounds in which matrices whose error was only estimated are made, measured and chosen anew.
_ROUNDS = 2
# Batches on which the true loss is taken.
_JUDGED = 4
_EVALUATIONS = 12
# Times that a choice is measured in the whole model, and made anew.
_SETTLING = 4


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
        _Bytes(tensors, live, budget)
        if choices.objective == "bytes"
        else _Measured(model, live, budget, choices, batches)
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
    choosing = _Choosing(problem, curves, workshop)
    chosen = choosing.choose(measure=True)
    notes = [BLIND_NOTE] if moments is None else [SAMPLE_NOTE, MASK_NOTE]
    if choices.loss is not None:
        notes.append(LOSS_NOTE)
    if choices.effort == "full" and batches.kept:
        refined: Refined = refine(model, live, choosing, chosen, batches.kept, choices.loss, _EVALUATIONS)
        chosen = refined.chosen
        notes.append(refined.note)
    if isinstance(problem, _Measured):
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


class _Bytes:
    """The budget as the size of a file."""

    def __init__(self, tensors: tuple[TensorSpec, ...], sites: Sequence[Site], budget: float | int | str) -> None:
        self._tensors = tensors
        self._shapes = {site.name: site.matrix_shape for site in sites}
        self._dtypes = {site.name: site.tensor.dtype for site in sites}
        self.dense = float(planned_bytes(tensors, {}))
        self.budget = amount(budget, "bytes", self.dense)
        self.notes: tuple[str, ...] = ()

    def bits(self, entries: int) -> float | None:
        """What the budget leaves for each entry."""
        fixed = self.dense - sum(spec.nbytes for spec in self._tensors if spec.name in self._shapes)
        return max(8 * (self.budget - fixed) / max(entries, 1), 0.0)

    def priced(self, site: Site, found: list[Option]) -> list[Option]:
        """The options with bytes of the header beside those of the tensors; none that gains nothing."""
        overheads: dict[tuple[Any, ...], int] = {}
        [dense] = [spec for spec in self._tensors if spec.name == site.name]
        priced = []
        for option in found:
            form = option.form
            kind = (form.kind, form.bits is None)
            if form != KEEP and kind not in overheads:
                shape = {site.name: (form, site.matrix_shape)}
                overheads[kind] = planned_bytes([dense], shape) - planned_bytes([dense], {})
                overheads[kind] -= form.nbytes(site.matrix_shape, site.tensor.dtype) - dense.nbytes
            extra = overheads.get(kind, 0) if form != KEEP else 0
            priced.append(replace(option, cost=float(option.nbytes + extra)))
        return priced

    def exact(self, chosen: Mapping[str, Option]) -> float:
        """Bytes of the whole file."""
        forms = {name: (o.form, self._shapes[name]) for name, o in chosen.items() if o.form != KEEP}
        return float(planned_bytes(self._tensors, forms))

    def refuse(self, smallest: float, count: int) -> ClisonixError:
        """The sentence for a budget that is out of reach."""
        return ClisonixError(
            f"the budget of {self.budget:,.0f} bytes is out of reach: the smallest possible file is {smallest:,.0f} "
            f"bytes (the least form in {count} weights, the rest as it is); raise the budget or let more take part"
        )


class _Measured:
    """The budget as seconds or joules of one pass."""

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], budget: float | int | str, choices: Choices, batches: _Kept
    ) -> None:
        if not batches.kept:
            raise ClisonixError(
                f"the objective {choices.objective!r} needs a batch to measure with; give calibration=[batch]"
            )
        costs = choices.costs
        if costs is None:
            costs = Costs(file=default_file()) if choices.objective == "seconds" else Costs(CpuTime(), default_file())
        batch = batches.kept[0]
        if choices.loss is not None and isinstance(batch, tuple | list) and len(batch) == 2:
            batch = batch[0]
        self._timer = Timer(model, sites, batch, costs)
        self.dense = self._timer.total
        self._sites = list(sites)
        self._together = 0.0
        self.budget = amount(budget, choices.objective, self.dense)
        self.unit = UNITS[choices.objective]
        self.notes: tuple[str, ...] = (
            f"costs are {costs.probe.name}, measured on this device for one pass over the first batch",
        )

    def bits(self, entries: int) -> float | None:
        """Bytes are not what is bounded."""
        return None if entries == 0 else 4.0

    def priced(self, site: Site, found: list[Option]) -> list[Option]:
        """Those worth timing, each with what it costs more than the dense weight.

        What weighs more and errs more than a form of another family may still be faster: unpacked low ranks are.
        """
        kinds = {(option.form.kind, option.form.bits if option.form.kind == "lowrank" else None) for option in found}
        worth = [
            option
            for kind, bits in sorted(kinds, key=str)
            for option in frontier(
                [o for o in found if o.form.kind == kind and (kind != "lowrank" or o.form.bits == bits)]
            )
        ]
        return self._timer.timed(site.name, worth)

    def exact(self, chosen: Mapping[str, Option]) -> float:
        """The cost of the whole model: that of the dense one, and what the options add to it, all together."""
        return self.dense + sum(option.cost or 0.0 for option in chosen.values()) + self._together

    def settled(self, choosing: _Choosing, chosen: dict[str, Option]) -> dict[str, Option]:
        """A choice whose cost in the whole model was measured, and fits the budget.

        A layer that is timed alone has the caches to itself, so layers tell how options compare, and the whole model
        how far their sum is off.
        """
        tried: list[tuple[float, float, float, dict[str, Option]]] = []
        for _ in range(_SETTLING):
            alone = sum(option.cost or 0.0 for option in chosen.values())
            if alone == 0:
                self._together = 0.0
                tried.append((self.dense, 0.0, 0.0, chosen))
                break
            forms = {site.name: chosen[site.name].form for site in self._sites if chosen[site.name].form != KEEP}
            found = self.dense * self._timer.share(forms, self._sites)
            together = found - self.dense - alone
            tried.append((found, sum(option.error for option in chosen.values()), together, chosen))
            self._together = together
            try:
                offer = choosing.choose(measure=True)
            except ClisonixError:
                break
            if all(offer[name].form == option.form for name, option in chosen.items()):
                break
            chosen = offer
        fitting = [one for one in tried if one[0] <= self.budget]
        found, _, self._together, chosen = (
            min(fitting, key=lambda one: one[1]) if fitting else min(tried, key=itemgetter(0))
        )
        if not fitting:
            over = f"the whole model was measured at {found:.4g} {self.unit}, above the budget of {self.budget:.4g}"
            self.notes = (*self.notes, f"{over}: its layers together save less than alone")
        return chosen

    def refuse(self, smallest: float, count: int) -> ClisonixError:
        """The sentence for a budget that is out of reach."""
        return ClisonixError(
            f"the budget of {self.budget:.4g} {self.unit} is out of reach: the least possible is {smallest:.4g} "
            f"{self.unit} with {count} layers in other forms; raise the budget"
        )


class _Choosing:
    """Chooses options under the budget, again and again as more is known of their errors."""

    def __init__(self, problem: _Bytes | _Measured, curves: dict[str, list[Option]], workshop: Workshop) -> None:
        self.problem, self.curves, self.workshop = problem, curves, workshop
        self.made: dict[tuple[str, Form], Matrix] = {}
        self._measured: set[tuple[str, Form]] = set()

    def allocate(self, factors: Mapping[str, float] | None = None) -> dict[str, Option]:
        """The best choice for the errors as they are known, those of each weight times its factor."""
        scale = factors or {}
        curves = [
            Curve.of(
                name,
                [option.cost or 0.0 for option in found],
                [option.error * scale.get(name, 1.0) for option in found],
            )
            for name, found in self.curves.items()
        ]
        places = {curve.name: curve.places for curve in curves}

        def chosen(steps: Choice) -> dict[str, Option]:
            return {name: self.curves[name][places[name][step]] for name, step in steps.items()}

        try:
            return chosen(allocate(curves, self.problem.budget, lambda steps: self.problem.exact(chosen(steps))))
        except OutOfReachError as error:
            raise self.problem.refuse(error.smallest, len(curves)) from None

    def choose(self, *, measure: bool, factors: Mapping[str, float] | None = None) -> dict[str, Option]:
        """`allocate`; what was only estimated and got chosen is made and measured, and then chosen anew."""
        chosen = self.allocate(factors)
        for _ in range(_ROUNDS if measure else 0):
            unsure = [
                (name, option)
                for name, option in chosen.items()
                if _estimated(option.form) and (name, option.form) not in self._measured
            ]
            if not unsure:
                break
            for name, option in unsure:
                self.curves[name] = corrected(self.curves[name], option.form, self.measure(name, option))
            chosen = self.allocate(factors)
        return chosen

    def measure(self, name: str, option: Option) -> float:
        """The error that an option really makes."""
        error = self.workshop.error(name, self.matrix(name, option.form))
        self._measured.add((name, option.form))
        return error

    def matrix(self, name: str, form: Form) -> Matrix:
        """The matrix of an option; made once."""
        if (name, form) not in self.made:
            self.made[name, form] = self.workshop.make(name, form)
        return self.made[name, form]


def _estimated(form: Form) -> bool:
    """Whether the error of this form is a rough estimate until it is made."""
    return form.kind == "double binary" or (form.kind == "lowrank" and form.bits is not None)


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
