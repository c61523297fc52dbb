"""The training loop of recovery: bounded, watched, and never worse than its start."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

# The rate rises over this part of the time and falls to this part of itself at the end.
WARM, LAST = 0.05, 0.02
# A parameter that begins at zero still moves as if it were this large.
LEAST_SIZE = 1e-3


@dataclass(frozen=True)
class Progress:
    """Where recovery stands.

    Attributes:
        where: name of the block that is being fitted; "" for the whole model.
        step: steps done.
        share: of the allowance used up, 0 to 1.
        seconds: wall clock since the start.
        loss: on the last training batch; None before the first.
        held_out: on the held-out batches, when last judged.
        best: the smallest `held_out` so far.
        start: `held_out` before the first step.
    """

    where: str
    step: int
    share: float
    seconds: float
    loss: float | None
    held_out: float
    best: float
    start: float


class Allowance:
    """How long training may go on: steps, minutes of the wall clock, minutes of processor time; the first to end.

    Processor time is that of all threads of this process together.

    Raises:
        ClisonixError: none of the three is given, or one is not a positive number.
    """

    def __init__(self, steps: int | None, minutes: float | None, cpu_minutes: float | None) -> None:
        given = {"steps": steps, "minutes": minutes, "cpu_minutes": cpu_minutes}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        if not limits:
            raise ClisonixError("no end was given for the recovery: give steps=, minutes= or cpu_minutes=")
        for name, limit in limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < math.inf:
                raise ClisonixError(f"{name}={limit!r} is no end for the recovery; give a number above 0")
        self._limits = limits
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        """Wall clock since the start."""
        return time.perf_counter() - self._wall

    def share(self, step: int) -> float:
        """How much of it is used up after `step` steps: 1 or more at the end."""
        spent = {"steps": step, "minutes": self.seconds / 60, "cpu_minutes": (time.process_time() - self._cpu) / 60}
        return max(spent[name] / limit for name, limit in self._limits.items())


class Masters:
    """Parameters, and exact copies of those that are stored in less precision than small steps need.

    Args:
        parameters: that are trained.
        stored: the dtype of some of them in the end; between steps they hold what that dtype can say.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], stored: Mapping[nn.Parameter, torch.dtype]) -> None:
        self._pairs = []
        self.wide = []
        for held in parameters:
            dtype = stored.get(held, held.dtype)
            wide = nn.Parameter(held.detach().float().clone()) if dtype.itemsize < 4 else held
            self.wide.append(wide)
            if wide is not held:
                self._pairs.append((held, wide, dtype))

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Hand the gradients of the parameters to their copies."""
        for held, wide, _ in self._pairs:
            wide.grad = None if held.grad is None else held.grad.to(wide.dtype)

    @torch.no_grad()
    def give_values(self) -> None:
        """Round the copies into the parameters."""
        for held, wide, dtype in self._pairs:
            held.copy_(wide.to(dtype))


def fit(
    parameters: Sequence[nn.Parameter],
    losses: Iterator[Tensor],
    judge: Callable[[], float],
    allowance: Allowance,
    *,
    lr: float,
    every: int,
    stored: Mapping[nn.Parameter, torch.dtype],
    where: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> tuple[float, float]:
    """Train `parameters` in place and leave them at the best values that were judged.

    Each parameter moves by about `lr` times its own size (root mean square) a step: Adam, with a rate that
    suits signs, scales, factors and norms alike, and a cosine schedule over the allowance.

    Args:
        parameters: what is trained.
        losses: gives the loss of one training batch after the other, with its graph.
        judge: the loss on held-out batches.
        allowance: when to end.
        lr: relative step.
        every: steps from one judgement to the next.
        stored: parameters that will be rounded to another dtype in the end.
        where: what `progress` is told is being trained.
        progress: called after each judgement.

    Returns:
        The judgement at the start and that of the values left, which is not larger.

    Raises:
        ClisonixError: the judgement at the start is not finite.
    """
    start = best = held_out = judge()
    if not math.isfinite(start):
        raise ClisonixError(
            f"the held-out loss{f' of {where}' if where else ''} is {start} before the first step; look for NaN or "
            "infinity in the model, its teacher and the data"
        )
    masters = Masters(parameters, stored)
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": 0.0, "relative": lr * _size(p)} for p in masters.wide], betas=(0.9, 0.98)
    )
    kept = [p.detach().clone() for p in parameters]
    step, loss_value = 0, None

    def tell() -> None:
        if progress is not None:
            share = min(allowance.share(step), 1.0)
            progress(Progress(where, step, share, allowance.seconds, loss_value, held_out, best, start))

    tell()
    while (share := allowance.share(step)) < 1:
        loss = next(losses, None)
        if loss is None:
            break
        cause = None if bool(loss.isfinite()) else f"the training loss is {float(loss.detach())}"
        if cause is None:
            optimizer.zero_grad()
            for p in parameters:
                p.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            masters.take_gradients()
            norm = nn.utils.clip_grad_norm_(masters.wide, 1.0)
            cause = None if bool(norm.isfinite()) else "a gradient is NaN or infinite"
        if cause is not None:
            warnings.warn(
                f"recovery{f' of {where}' if where else ''} stopped at step {step + 1}: {cause}; the best state "
                f"before it is returned, try a smaller lr than {lr:g}",
                stacklevel=3,
            )
            break
        rate = min(1.0, (share + 1e-3) / WARM) * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        optimizer.step()
        masters.give_values()
        step, loss_value = step + 1, float(loss.detach())
        if step % every == 0 or allowance.share(step) >= 1:
            held_out = judge()
            if held_out < best:
                best = held_out
                _copy(kept, parameters)
            tell()
    _copy(parameters, kept)
    for p in parameters:
        p.grad = None
    return start, best


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Every module of `models` in eval mode; the modes are put back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _size(parameter: Tensor) -> float:
    return max(float(parameter.detach().float().square().mean().sqrt()), LEAST_SIZE) if parameter.numel() else 0.0


@torch.no_grad()
def _copy(into: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for target, value in zip(into, source, strict=True):
        target.copy_(value)
