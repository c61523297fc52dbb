"""Stops a run whose numbers go wrong before they are stepped with, and says where it began."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.fabric import Window

# A model whose loss is this many times that of guessing, over about as many steps as that, has left for good.
_WORSE_THAN_GUESSING = 3.0
_HORIZON = 20


class Health:
    """Looks at the loss and the gradients of every step, before the optimiser does.

    Attributes:
        average: running mean of the loss.
    """

    def __init__(self, classes: int) -> None:
        self.limit = _WORSE_THAN_GUESSING * math.log(classes)
        self.average = math.log(classes)

    def check(
        self, model: nn.Module, loss: Tensor, norm: Tensor, *, step: int, rate: float, window: Window, again: Forward
    ) -> None:
        """Raise if this step must not be taken.

        Args:
            model: with its gradients.
            loss: of the step.
            norm: of all gradients together.
            step: its number, from 1.
            rate: learning rate.
            window: the batch.
            again: computes the scores of the batch once more.

        Raises:
            ClisonixError: naming the step, the layer and the cause.
        """
        # One wait for the device for both.
        loss_now, norm_now = torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
        if not (math.isfinite(loss_now) and math.isfinite(norm_now)):
            what = f"the loss is {loss_now}" if not math.isfinite(loss_now) else "a gradient is not finite"
            raise ClisonixError(f"{what} in step {step}: {_origin(model, window, again, rate)}")
        self.average += (loss_now - self.average) / _HORIZON
        if self.average > self.limit:
            raise ClisonixError(
                f"the loss averages {self.average:.3g} by step {step}, over {_WORSE_THAN_GUESSING:g} times that of "
                f"guessing: {_steepest(model)} at a learning rate of {rate:.2g}, so training diverges; lower "
                "train.learning_rate"
            )


Forward = Callable[[], Any]


def _origin(model: nn.Module, window: Window, again: Forward, rate: float) -> str:
    for name, samples in window["streams"].items():
        measured = torch.where(window["masks"][name], samples, 0.0)
        if not bool(measured.isfinite().all()):
            bad = int((~measured.isfinite()).flatten(1).any(dim=1).nonzero()[0])
            row = int(window["window"][bad])
            return (
                f"{name} of window {row} holds values that are not finite and are not masked; look at that recording"
            )
    for name, p in model.named_parameters():
        if not bool(p.isfinite().all()):
            return f"the parameter {name} was not finite before it; start again with a lower train.learning_rate"
    layer = _first_layer(model, again)
    if layer is not None:
        return (
            f"the layer {layer}, although its inputs and weights are finite; lower train.learning_rate ({rate:.2g})"
        )
    for name, p in reversed(list(model.named_parameters())):
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            return f"the gradient of {name} is the first to overflow on the way back; lower train.learning_rate"
    return "the sum of squares of all gradients overflows; lower train.learning_rate"


@torch.no_grad()
def _first_layer(model: nn.Module, again: Forward) -> str | None:
    """The first module in order of computation that makes something infinite out of finite inputs."""
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            given = [x for x in inputs if isinstance(x, Tensor)]
            if found or not isinstance(output, Tensor) or bool(output.isfinite().all()):
                return
            if all(bool(x.isfinite().all()) for x in given):
                size = max((float(x.abs().max()) for x in given if x.is_floating_point()), default=0.0)
                found.append(f"{name or 'model'} makes what is not finite out of inputs of up to {size:.2g}")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        again()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _steepest(model: nn.Module) -> str:
    """The weight whose gradient is largest beside it."""
    sizes = {
        name: float(p.grad.norm() / p.detach().norm().clamp(min=1e-12))
        for name, p in model.named_parameters()
        if p.grad is not None and p.ndim > 1
    }
    name = max(sizes, key=lambda key: sizes[key])
    return f"the gradient of {name} is {sizes[name]:.2g} times as large as it, more than of any other weight,"
