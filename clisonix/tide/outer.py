"""The arithmetic of a sync, the same to the last bit on every processor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PIECE = 1 << 16


# A flipped bit can make any value; it is the digest that tells, not a warning.
@np.errstate(over="ignore", invalid="ignore")
def nesterov_(
    outer: NDArray[np.floating],
    momentum: NDArray[np.floating],
    gradient: NDArray[np.floating],
    rate: float,
    decay: float,
) -> None:
    """One SGD step with Nesterov momentum, as in `torch.optim.SGD`, in place.

    In float64, a piece that fits the cache at a time, and one operation at a time: fused multiply-adds round
    differently from one processor to the next.

    Args:
        outer: the parameters, `(n,)`.
        momentum: of the same shape.
        gradient: where the inner steps started minus where they arrived.
        rate: learning rate.
        decay: of the momentum.
    """
    for begin in range(0, len(outer), _PIECE):
        piece = slice(begin, begin + _PIECE)
        slope = gradient[piece].astype(np.float64)
        velocity = momentum[piece].astype(np.float64)
        velocity *= decay
        velocity += slope
        change = velocity * decay
        change += slope
        change *= rate
        outer[piece] = outer[piece] - change
        momentum[piece] = velocity


def weighted_mean(updates: Iterable[tuple[float, NDArray[np.float32]]], size: int) -> NDArray[np.float32]:
    """The mean of `(weight, update)` pairs in the order given, summed in float64."""
    total, weight = np.zeros(size, np.float64), 0.0
    for each, update in updates:
        total += update * np.float64(each)
        weight += each
    if weight:
        total /= weight
    return total.astype(np.float32)


@torch.no_grad()
def add_proximal_(parameters: Iterable[Tensor], starts: Iterable[Tensor], strength: float) -> None:
    """Add to each gradient the pull back to where the inner steps started (FedProx, Li et al. 2020, eq. 2).

    Args:
        parameters: with their gradients; one without is left alone.
        starts: the agreed values, in the same order.
        strength: half of this times the squared distance is what the loss grows by.
    """
    for parameter, start in zip(parameters, starts, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - start.to(parameter.device, parameter.dtype), alpha=strength)
