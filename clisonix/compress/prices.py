"""What options cost, and what a budget allows: bytes of a file, or seconds or joules that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from torch import nn

from clisonix.compress.budgets import UNITS, amount
from clisonix.compress.costs import Costs, CpuTime, default_file
from clisonix.compress.forms import KEEP
from clisonix.compress.options import Option, frontier
from clisonix.compress.plans import planned_bytes
from clisonix.compress.sizes import TensorSpec
from clisonix.compress.survey import Site
from clisonix.compress.timing import Timer
from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.compress.choosing import Choosing
    from clisonix.compress.planner import Choices

# Times that a choice is measured in the whole model, and made anew.
_SETTLING = 4


class FileBudget:
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


class MeasuredBudget:
    """The budget as seconds or joules of one pass."""

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        budget: float | int | str,
        choices: Choices,
        batches: Sequence[Any],
    ) -> None:
        if not batches:
            raise ClisonixError(
                f"the objective {choices.objective!r} needs a batch to measure with; give calibration=[batch]"
            )
        costs = choices.costs
        if costs is None:
            costs = Costs(file=default_file()) if choices.objective == "seconds" else Costs(CpuTime(), default_file())
        batch = batches[0]
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

    def settled(self, choosing: Choosing, chosen: dict[str, Option]) -> dict[str, Option]:
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
