"""Second moments of what goes into each weight, gathered while calibration batches run through the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clisonix.compress.batches import Feeder, Loss, check_batches
from clisonix.compress.capture import Capture, Grams
from clisonix.compress.moments import Moment
from clisonix.compress.survey import Site
from clisonix.errors import ClisonixError

MASK_NOTE = "calibration counts every position a layer is given: padding that the model masks later is not known here"


def gather(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Any], *, loss: Loss | None = None
) -> dict[str, Moment]:
    """Run `batches` through `model` in eval mode and gather the moments of every weight that can be compressed.

    How a batch is handed over is said at `clisonix.compress.batches.Feeder`. Training modes and what requires
    gradients are put back afterwards. Memory does not grow with the number of batches; with a loss each batch
    takes what its backward pass takes, without gradients of parameters.

    Args:
        model: the dense model.
        sites: from `survey`.
        batches: any finite iterable; walked once.
        loss: `loss(output, target)` for batches that are pairs `(inputs, target)`, else `loss(output, batch)`. With
            it the mean squared gradient by each output is gathered in the same pass.

    Returns:
        A moment per weight that can be compressed, by name; `seen` is false where no batch reached it.

    Raises:
        ClisonixError: no batches, batches that the model or the loss cannot take, or activations that are not finite.
    """
    check_batches(batches)
    moments = {site.name: Moment(site.name, site.matrix_shape) for site in sites if site.reason is None}
    feeder, grams, seen = Feeder(model, loss), Grams(), 0
    with watched(model, sites) as layers, _frozen(model, frozen=loss is not None):
        captures = [
            Capture(layer, {parameter: moments[name] for parameter, name in names.items()}, grams, loss is not None)
            for layer, names in layers
        ]
        handles = [capture.hook() for capture in captures]
        try:
            for batch in batches:
                batch = feeder.moved(batch)
                with torch.set_grad_enabled(loss is not None):
                    output = feeder.output(batch)
                    if loss is not None:
                        _backward(feeder.value(output, batch))
                grams.forget()
                seen += 1
        finally:
            for handle in handles:
                handle.remove()
    if not seen:
        raise ClisonixError("calibration gave no batches; a generator can be walked only once, so give a list")
    return moments


@contextmanager
def watched(model: nn.Module, sites: Sequence[Site]) -> Iterator[list[tuple[nn.Module, dict[str, str]]]]:
    """The layers that read the weights of `sites`, with the names of these weights by parameter.

    Meanwhile the model is in eval mode, and torch's attention does not pass hooks by.
    """
    modules = dict(model.named_modules())
    found: dict[int, tuple[nn.Module, dict[str, str]]] = {}
    for site in sites:
        for place in site.places if site.reason is None else ():
            module, parameter = modules[place.module], place.parameter
            outer = modules.get(place.module.rpartition(".")[0])
            # The last projection of an attention is read by the attention and never called.
            if isinstance(outer, nn.MultiheadAttention) and outer.out_proj is module:
                module, parameter = outer, f"out_proj.{parameter}"
            found.setdefault(id(module), (module, {}))[1][parameter] = site.name
    fused = torch.backends.mha.get_fastpath_enabled()
    modes = [(module, module.training) for module in model.modules()]
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield list(found.values())
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes:
            module.training = training


def _backward(value: Tensor) -> None:
    if not value.requires_grad:
        raise ClisonixError(
            "the loss does not depend on the outputs of any layer that can be compressed; give a loss that is "
            "differentiable in the model's output"
        )
    value.backward()  # type: ignore[no-untyped-call]


@contextmanager
def _frozen(model: nn.Module, *, frozen: bool) -> Iterator[None]:
    """No parameter gathers a gradient: only those by outputs are wanted."""
    learning = [parameter for parameter in model.parameters() if frozen and parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
