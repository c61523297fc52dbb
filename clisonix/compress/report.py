"""What compressing a model took, and after how many inferences it has paid for itself."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from clisonix.compress.batches import Feeder
from clisonix.compress.recover_fit import eval_mode
from clisonix.errors import ClisonixError


class Figure(Protocol):
    """An energy figure, as the meter gives it."""

    @property
    def joules(self) -> float | None:
        """The best figure, or None where there is none."""

    def how(self) -> str:
        """One phrase that says how it was obtained."""


class Window(Protocol):
    """A stretch of time that was measured: what `meter.window(name)` gives."""

    @property
    def seconds(self) -> float | None:
        """Duration, None until it is over."""

    def energy(self) -> Figure:
        """What was used meanwhile."""


@dataclass(frozen=True)
class Cost:
    """What something took.

    Attributes:
        seconds: of the wall clock.
        joules: None where nothing measured it.
        how: how `joules` was obtained, or why it is missing.
    """

    seconds: float
    joules: float | None = None
    how: str = "energy was not measured"

    @staticmethod
    def of(window: Window) -> Cost:
        """What a window of the meter took.

        Raises:
            ClisonixError: the window is not closed.
        """
        if window.seconds is None:
            raise ClisonixError("the window is still open, so its cost is not known; close it first")
        figure = window.energy()
        return Cost(window.seconds, figure.joules, figure.how())

    def __add__(self, other: Cost) -> Cost:
        if self.joules is None or other.joules is None:
            return Cost(self.seconds + other.seconds, None, self.how if self.joules is None else other.how)
        how = self.how if self.how == other.how else f"{self.how}; {other.how}"
        return Cost(self.seconds + other.seconds, self.joules + other.joules, how)

    def each(self, count: int) -> Cost:
        """One of `count` equal parts."""
        return Cost(self.seconds / count, None if self.joules is None else self.joules / count, self.how)

    def __str__(self) -> str:
        if self.joules is None:
            return f"{_amount(self.seconds, 's')} (no joules: {self.how})"
        return f"{_amount(self.seconds, 's')} and {_amount(self.joules, 'J')} ({self.how})"


@dataclass(frozen=True)
class PayBack:
    """After how many inferences a compression has saved what it took.

    Attributes:
        unit: "J", or "s" where joules are not known on every side.
        spent: by the compression.
        saved: by one inference, negative where the compressed model takes more.
        inferences: a whole number, or None where nothing is saved.
        reason: why `inferences` is None.
        how: how the figures were obtained, or why they are in seconds.
    """

    unit: str
    spent: float
    saved: float
    inferences: int | None
    reason: str | None
    how: str

    def __str__(self) -> str:
        """One sentence."""
        text = f"compression took {_amount(self.spent, self.unit)}"
        if self.inferences is None:
            return f"{text} and does not pay back: {self.reason} ({self.how})"
        saved = _amount(self.saved, self.unit)
        return f"{text}, one inference saves {saved}: paid back after {self.inferences:,} inferences ({self.how})"


def pay_back(spent: Cost, dense: Cost, compressed: Cost) -> PayBack:
    """After how many inferences `spent` is made up for, in joules, or in seconds where joules are missing.

    Args:
        spent: on the whole compression: calibration, planning, fitting, recovery.
        dense: one inference of the dense model, as `inference_costs` gives it.
        compressed: one inference of the compressed model.

    Raises:
        ClisonixError: a figure is negative or not finite.
    """
    sides = (spent, dense, compressed)
    joules = [side.joules for side in sides if side.joules is not None]
    unknown = next((side.how for side in sides if side.joules is None), None)
    values = joules if unknown is None else [side.seconds for side in sides]
    unit, how = ("J", spent.how) if unknown is None else ("s", f"in seconds, for {unknown}")
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ClisonixError(f"costs of {values} {unit} were given; give numbers that are finite and not negative")
    total, before, after = values
    saved = before - after
    if saved > 0:
        return PayBack(unit, total, saved, math.ceil(total / saved), None, how)
    reason = (
        f"an inference takes {_amount(after, unit)} compressed and {_amount(before, unit)} dense, so nothing is saved"
    )
    return PayBack(unit, total, saved, None, reason, how)


@torch.no_grad()
def inference_costs(
    models: Sequence[nn.Module],
    batch: Any,  # noqa: ANN401 - whatever the models take
    *,
    meter: Any = None,  # noqa: ANN401 - a running `Meter`; this room does not import it
    rounds: int = 7,
    seconds: float = 0.2,
) -> list[Cost]:
    """What one call of each model takes with a batch: medians over rounds in which each has its turn.

    Args:
        models: in eval mode while they are measured.
        batch: one batch, as calibration takes it; the cost is that of the whole batch.
        meter: a running meter, for joules.
        rounds: turns of each model.
        seconds: that one turn takes about.

    Raises:
        ClisonixError: a model fails on the batch, or `rounds` or `seconds` is not positive.
    """
    if rounds < 1 or not seconds > 0:
        raise ClisonixError(f"rounds={rounds!r} and seconds={seconds!r} were given; give at least 1 and above 0")
    feeders = [Feeder(model) for model in models]
    found: list[list[Cost]] = [[] for _ in models]
    with eval_mode(*models):
        calls = []
        for feeder in feeders:
            feeder.output(batch)  # the first call allocates and builds
            start = time.perf_counter()
            feeder.output(batch)
            calls.append(max(1, round(seconds / max(time.perf_counter() - start, 1e-9))))
        for turn in range(rounds):
            for index in range(len(models)) if turn % 2 == 0 else reversed(range(len(models))):
                start = time.perf_counter()
                with nullcontext() if meter is None else meter.window("inference", sync=True) as window:
                    for _ in range(calls[index]):
                        feeders[index].output(batch)
                    _finish(feeders[index].model)
                spent = Cost(time.perf_counter() - start) if window is None else Cost.of(window)
                found[index].append(spent.each(calls[index]))
    return [_median(costs) for costs in found]


def _finish(model: nn.Module) -> None:
    """Wait for what a GPU still has to do."""
    if any(parameter.is_cuda for parameter in model.parameters()):
        torch.cuda.synchronize()


def _median(costs: Sequence[Cost]) -> Cost:
    joules = [cost.joules for cost in costs if cost.joules is not None]
    middle = statistics.median(joules) if len(joules) == len(costs) else None
    how = next((cost.how for cost in costs if cost.joules is None), costs[0].how)
    return Cost(statistics.median(cost.seconds for cost in costs), middle, how)


def _amount(value: float, unit: str) -> str:
    """Three significant digits with a prefix: "4.12 mJ"."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        # A kilosecond is nothing that people say.
        if abs(value) >= factor and not (unit == "s" and factor > 1):
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
