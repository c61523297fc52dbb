"""How far the outputs of a compressed model are from those of its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.compress.batches import tensors_in
from clisonix.errors import ClisonixError, nearest

Loss = Callable[[Any, Any, Any], Tensor]
"""Of (the student's output, the teacher's output, the batch): one number to make small, with a gradient."""


def relative_mse(student: Any, teacher: Any, batch: Any = None) -> Tensor:  # noqa: ANN401
    """Squared deviation relative to the squared size of the teacher's output, averaged over its tensors.

    Raises:
        ClisonixError: no floating-point tensor in the outputs, or not as many and of the same shapes.
    """
    ours, theirs = tensors_in(student), tensors_in(teacher)
    if not theirs or [x.shape for x in ours] != [x.shape for x in theirs]:
        shapes = [" and ".join(str(tuple(x.shape)) for x in side) or "nothing" for side in (ours, theirs)]
        raise ClisonixError(
            f"the compressed model gives {shapes[0]} and its teacher {shapes[1]} as floating-point tensors; give a "
            "teacher with the same outputs, or a loss of your own"
        )
    each = []
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        wide = theirs_one.float()
        size = wide.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
        each.append((ours_one.float() - wide).square().sum() / size)
    return torch.stack(each).mean()


def logit_kl(student: Any, teacher: Any, batch: Any = None) -> Tensor:  # noqa: ANN401
    """Kullback-Leibler divergence in nats from the teacher's distribution, for logits `(..., classes)`.

    The first floating-point tensor of an output is taken for its logits; the mean is over all positions.
    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), at temperature 1.

    Raises:
        ClisonixError: the logits are missing or differ in shape.
    """
    ours, theirs = next(iter(tensors_in(student)), None), next(iter(tensors_in(teacher)), None)
    if ours is None or theirs is None or ours.shape != theirs.shape or not ours.ndim:
        raise ClisonixError(
            f"the logits are {None if ours is None else tuple(ours.shape)} and the teacher's "
            f"{None if theirs is None else tuple(theirs.shape)}; give models that return logits of one shape"
        )
    ours_log, theirs_log = (F.log_softmax(x.float(), -1).flatten(0, -2) for x in (ours, theirs))
    return F.kl_div(ours_log, theirs_log, reduction="batchmean", log_target=True)


LOSSES: dict[str, Loss] = {"mse": relative_mse, "kl": logit_kl}


def loss_named(loss: str | Loss | None) -> Loss:
    """The loss itself; None is "mse".

    Raises:
        ClisonixError: a name that is none of `LOSSES`.
    """
    if callable(loss):
        return loss
    if loss is not None and loss not in LOSSES:
        raise ClisonixError(f"the loss {loss!r} is unknown{nearest(str(loss), LOSSES)}.")
    return LOSSES[loss or "mse"]
