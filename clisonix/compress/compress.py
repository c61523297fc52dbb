"""From an ordinary model to a compressed one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from clisonix.compress.batches import Loss
from clisonix.compress.calibrate import gather
from clisonix.compress.convert import converted, planned_sites
from clisonix.compress.costs import Costs
from clisonix.compress.options import Effort
from clisonix.compress.planner import Choices, Planned, Progress, prepare
from clisonix.compress.plans import Plan
from clisonix.compress.survey import Names
from clisonix.compress.workshop import Workshop
from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix
from clisonix.liam.tiled import tile_

NO_CALIBRATION = (
    "the plan was made with calibration but compress got none, so its errors do not hold: every input direction "
    "counts alike; pass calibration= to compress as well"
)


def compress(
    model: nn.Module,
    plan_or_budget: Plan | float | int | str | None = None,
    *,
    budget: float | int | str | None = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    include: Names = None,
    exclude: Names = None,
    forms: str | Iterable[str] | None = None,
    objective: str = "bytes",
    effort: Effort = "fast",
    costs: Costs | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """A compressed copy of `model`: same inputs, same outputs up to the error, an ordinary module.

    Weights are made small one after the other, so what is needed beside the model is the compressed model, the
    second moments, and what one weight takes. Equal inputs give equal results.

    Args:
        model: the dense model; it is not changed.
        plan_or_budget: a `Plan`, or a budget as `plan` takes it. With a budget, planning and compressing share
            one pass over the calibration batches.
        budget: the budget by name, instead.
        calibration: batches as for `plan`. Without them every input direction counts alike, which a plan made
            with calibration does not expect: that case warns. So do weights in a plan that the batches never reach.
        loss: as for `plan`.
        include: as for `plan`; only with a budget, as are `exclude`, `forms`, `objective`, `effort` and `costs`.
        exclude: as for `plan`.
        forms: as for `plan`. Low ranks ("low rank") are what goes on learning best.
        objective: as for `plan`.
        effort: as for `plan`.
        costs: as for `plan`.
        resume: a folder where each finished matrix is kept. When the same call is made again after an
            interruption, it takes them up; the result is the same bit for bit.
        progress: called with what is done, how far it is, and out of how many.

    Returns:
        A new model on the same device, in the same training mode. On a CPU its packed weights are tiled, see
        `clisonix.liam.tile_`.

    Raises:
        ClisonixError: a plan made for another model, or whatever `plan` raises.
    """
    if (plan_or_budget is None) == (budget is None):
        raise ClisonixError("give a plan or a budget, and not both")
    given: Any = budget if plan_or_budget is None else plan_or_budget
    folder = None if resume is None else Path(resume)
    if isinstance(given, Plan):
        if not all(value is None for value in (include, exclude, forms, costs)) or objective != "bytes":
            raise ClisonixError(
                "include, exclude, forms, objective and costs were given beside a plan, which has settled them; give "
                "them to plan()"
            )
        planned = _of_plan(model, given, calibration, loss, folder)
    else:
        choices = Choices(objective, loss, include, exclude, forms, effort, costs)
        planned = prepare(model, given, choices, calibration=calibration, folder=folder, progress=progress)
    matrices: dict[str, Matrix] = {}
    for index, site in enumerate(planned.sites):
        if progress is not None:
            progress("compress", index, len(planned.sites))
        made = planned.made.pop(site.name, None)
        form = planned.plan.forms[site.name]
        matrices[site.name] = planned.workshop.make(site.name, form) if made is None else made
        planned.workshop.finish(site.name)
    planned.workshop.close()
    if progress is not None:
        progress("compress", len(planned.sites), len(planned.sites))
    return tile_(converted(model, matrices))


def _of_plan(
    model: nn.Module, plan: Plan, calibration: Iterable[Any] | None, loss: Loss | None, folder: Path | None
) -> Planned:
    sites = planned_sites(model, plan)
    if calibration is None and plan.calibrated and sites:
        warnings.warn(NO_CALIBRATION, stacklevel=3)
    moments = None if calibration is None else gather(model, sites, calibration, loss=loss)
    return Planned(plan, sites, Workshop(sites, moments, with_loss=loss is not None, folder=folder))
