"""What each option of a weight costs in time or energy: measured in its own layer, on the inputs it is given."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from clisonix.compress.batches import Feeder, described
from clisonix.compress.calibrate import watched
from clisonix.compress.convert import converted
from clisonix.compress.costs import Costs, alternating, stand_in
from clisonix.compress.forms import KEEP, Form
from clisonix.compress.options import Option
from clisonix.compress.survey import Site, survey

# Options of a weight that are timed.
_MOST = 16


@dataclass(frozen=True)
class Call:
    """One call of a layer: what it was given."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def signature(self) -> str:
        """Types and shapes."""
        return described((*self.args, dict(self.kwargs)))


@torch.no_grad()
def recorded(model: nn.Module, sites: Sequence[Site], batch: Any) -> dict[int, list[Call]]:  # noqa: ANN401
    """The calls of the layers that hold `sites`, by the layer's identity, while `batch` runs through the model."""
    feeder = Feeder(model)
    calls: dict[int, list[Call]] = defaultdict(list)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: object) -> None:
        calls[id(module)].append(Call(args, kwargs))

    with watched(model, sites) as layers:
        handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer, _ in layers]
        try:
            feeder.output(feeder.moved(batch))
        finally:
            for handle in handles:
                handle.remove()
    return dict(calls)


class Timer:
    """Times the options of every weight of one model.

    Args:
        model: the dense model.
        sites: that take part.
        batch: one of the calibration batches: it says how many rows each layer is given.
        costs: measures and remembers.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], batch: Any, costs: Costs) -> None:  # noqa: ANN401
        self.model, self.costs, self.batch = model, costs, batch
        self.calls = recorded(model, sites, batch)
        self._layers: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
        self._dense: dict[int, list[float]] = {}
        with watched(model, sites) as layers:
            for layer, names in layers:
                for parameter, name in names.items():
                    self._layers[name].append((layer, parameter))
                self._dense[id(layer)] = self._alone(layer)
        self.total = self._whole()

    @torch.no_grad()
    def _alone(self, layer: nn.Module) -> list[float]:
        """The cost of each of its calls."""
        return [self.costs.once(lambda call=call: layer(*call.args, **call.kwargs)) for call in self._calls(layer)]  # type: ignore[misc]

    def _calls(self, layer: nn.Module) -> list[Call]:
        return self.calls.get(id(layer), [])

    @torch.no_grad()
    def _whole(self) -> float:
        """The cost of the dense model for the batch."""
        feeder = Feeder(self.model)
        batch = feeder.moved(self.batch)
        training = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            return self.costs.once(lambda: feeder.output(batch))
        finally:
            for module, mode in training:
                module.training = mode

    @torch.no_grad()
    def share(self, forms: Mapping[str, Form], sites: Sequence[Site]) -> float:
        """The cost of the whole model with these forms, as a part of what the dense one costs; measured in turn."""
        replaced = [site for site in sites if site.name in forms]
        matrices = {
            site.name: stand_in(forms[site.name], site.matrix_shape, site.tensor.dtype, site.tensor.device)
            for site in replaced
        }
        small = converted(self.model, matrices, sites=replaced)
        training = [(module, module.training) for model in (self.model, small) for module in model.modules()]
        dense, other = Feeder(self.model), Feeder(small)
        batch = dense.moved(self.batch)
        try:
            self.model.eval()
            small.eval()
            works = [lambda: dense.output(batch), lambda: other.output(batch)]
            before, after = alternating(self.costs.probe, works, 2 * self.costs.rounds + 1)
        finally:
            for module, mode in training:
                module.training = mode
        return after / before

    def timed(self, name: str, choices: Sequence[Option]) -> list[Option]:
        """The options that are worth timing, each with what it costs more than the dense weight (below 0: less)."""
        site_layers = self._layers[name]
        # Layers measured one by one may take longer than all of them in a row, which no saving can.
        scale = min(1.0, self.total / max(sum(map(sum, self._dense.values())), 1e-30))
        timed = []
        for option in thinned(choices, _MOST):
            cost = 0.0
            for layer, parameter in site_layers if option.form != KEEP else ():
                for call, dense in zip(self._calls(layer), self._dense[id(layer)], strict=True):
                    cost += dense * scale * (self._ratio(layer, parameter, option, call) - 1)
            timed.append(replace(option, cost=cost))
        self.costs.save()
        return timed

    def _ratio(self, layer: nn.Module, parameter: str, option: Option, call: Call) -> float:
        dtype = next(layer.parameters()).dtype
        key = " | ".join(
            [
                repr(layer).replace("\n", " "),
                parameter,
                str(dtype),
                json.dumps(option.form.to_json()),
                call.signature,
                str(torch.get_num_threads()),
            ]
        )

        def pair() -> tuple[Any, Any]:
            sites = {site.name: site for site in survey(layer)}
            site = sites[parameter]
            matrix = stand_in(option.form, site.matrix_shape, dtype, site.tensor.device)
            small = converted(layer, {parameter: matrix}, sites=[site]).eval()
            return lambda: small(*call.args, **call.kwargs), lambda: layer(*call.args, **call.kwargs)

        mine, dense = self.costs.pair(key, next(layer.parameters()).device, pair)
        return mine / dense if dense > 0 else 1.0


def thinned(choices: Sequence[Option], most: int) -> list[Option]:
    """At most `most` of each family, evenly spread over the bytes, and "keep"."""
    families: dict[tuple[Any, ...], list[Option]] = defaultdict(list)
    for option in choices:
        form = option.form
        families[form.kind, form.bits if form.kind == "lowrank" else None].append(option)
    kept: list[Option] = []
    for family in families.values():
        few = max(1, min(len(family), most // (1 if len(families) < 3 else 2)))
        places = sorted({round(i * (len(family) - 1) / max(few - 1, 1)) for i in range(few)})
        kept += [family[place] for place in places]
    return sorted(kept, key=lambda option: (option.nbytes, option.error))
