"""Whether bf16 is faster than float32 here: a few timed steps, which leave nothing behind."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

_ROUNDS = 3


def times_faster(model: nn.Module, loss_of: Callable[[], Tensor], device: torch.device) -> float:
    """How many times faster forward and backward are under bf16 autocast: median of paired rounds.

    Gradients are dropped and torch's generators are put back, so that training goes on as if nothing had happened.

    Args:
        model: whose gradients are dropped.
        loss_of: computes a loss of the model.
        device: that it is on.
    """

    def seconds(bf16: bool) -> float:
        _wait(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.float().backward()  # type: ignore[no-untyped-call]
        _wait(device)
        return time.perf_counter() - start

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for bf16 in (False, True):  # first calls allocate
            seconds(bf16)
        ratios = [seconds(False) / seconds(True) for _ in range(_ROUNDS)]
    model.zero_grad(set_to_none=True)
    return statistics.median(ratios)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
