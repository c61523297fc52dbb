"""The state of a training run, and the one step that changes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress import compress, expand
from clisonix.errors import ClisonixError
from clisonix.fabric import Loader, Window
from clisonix.fabric.loader import to_device
from clisonix.train.augment import augment
from clisonix.train.checkpoint import (
    optimiser_tensors,
    random_tensors,
    read_checkpoint,
    restore_optimiser,
    restore_random,
    write_checkpoint,
)
from clisonix.train.config import RunConfig
from clisonix.train.health import Health
from clisonix.train.making import make_optimiser
from clisonix.train.recipe.factors import factorised
from clisonix.train.recipe.pace import Pace, effective
from clisonix.train.recipe.precision import times_faster
from clisonix.train.task import Task, build_model


class Learner:
    """Model, optimiser, counters, and the cursor of the training windows.

    Attributes:
        model: dense or compressed.
        step: optimiser steps done.
        epoch: the epoch under way, from 0.
        compressed: whether the model is in its compressed form.
    """

    def __init__(self, config: RunConfig, task: Task, device: torch.device) -> None:
        self.config, self.task, self.device = config, task, device
        self.model: nn.Module = build_model(config, task).to(device)
        self.step, self.epoch = 0, 0
        self.compressed = False
        self.pace = Pace(config, len(task.train))
        self.health = Health(len(task.classes))
        self._settings = effective(config)
        self._sizes: tuple[int, int] | None = None
        if config.recipe is not None and config.recipe.factors.use:
            small = factorised(self.model, config.recipe.factors)
            self._sizes = _parameters(self.model), _parameters(small)
            self.model = small
        self._loss, self._windows = torch.zeros((), device=device), 0
        threads = config.train.loader_threads
        self.loader = Loader(task.train, threads=threads, device=_away(device))
        self._held_out = Loader(task.test, threads=threads, device=_away(device))
        self._batches: Iterator[Window] | None = None
        self._asked_s = 0.0
        self._validation = None if task.validation is None else Loader(task.validation, threads=threads)
        self._autocast = _wants_bf16(config.precision, device)
        self._adopt(self.model)

    @property
    def steps(self) -> int:
        """Steps of the whole run, as far as is known."""
        return self.pace.steps

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.pace.epochs

    @property
    def looking(self) -> bool:
        """Whether the early stop wants a look between two epochs."""
        return self._validation is not None and not self.pace.cooling

    @property
    def notes(self) -> list[str]:
        """What the recipe has done, for the record."""
        return self.pace.notes(self._sizes)

    @property
    def phase(self) -> str:
        """`dense`, `factors` or `compressed`: part of the window names of the meter."""
        return "compressed" if self.compressed else "dense" if self._sizes is None else "factors"

    @property
    def due_for_compression(self) -> bool:
        """Whether the dense share of the epochs is over."""
        plan = self.config.compress
        return plan is not None and not self.compressed and self.epoch >= round(plan.after * self.config.train.epochs)

    def advance(self) -> Iterator[int]:
        """Train on the rest of the epoch, one step at a time; ends with the epoch.

        Raises:
            ClisonixError: a number is no longer finite, or training diverges; the step is not taken.
        """
        train = self.config.train
        self._choose_precision()
        self.model.train()
        # Batches that were made ahead stay valid when a checkpoint comes between two steps.
        if self._batches is None:
            self._batches = iter(self.loader)
        for batch in self._batches:
            window = augment(batch, train.augment, self.task.rates_hz)
            rate = self.pace.learning_rate(self.step)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._loss_of(window)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            learning = [p for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
            again = partial(self._loss_of, window)
            self.health.check(self.model, loss, norm, step=self.step + 1, rate=rate, window=window, again=again)
            nn.utils.clip_grads_with_norm_(learning, train.clip_norm, norm)
            self.optimiser.step()
            self.step += 1
            self._loss += loss.detach() * len(window["label"])
            self._windows += len(window["label"])
            yield self.step
        self._batches = None

    @property
    def input_s(self) -> float:
        """Seconds of the epoch so far that training waited for its batches, in this process."""
        return self.loader.stats.asked_s - self._asked_s

    def end_epoch(self) -> float:
        """Close the epoch and return its mean loss."""
        loss = self.mean_loss()
        self.epoch += 1
        self._loss, self._windows = torch.zeros_like(self._loss), 0
        self._asked_s = self.loader.stats.asked_s
        return loss

    def mean_loss(self) -> float:
        """Mean loss of the epoch so far; waits for the device."""
        return float(self._loss) / max(self._windows, 1)

    def look(self) -> str | None:
        """Let the early stop look at the windows that were set aside for it, between two epochs.

        Returns:
            a sentence if the end of the run has been settled by it.
        """
        if self._validation is None or not self.looking:
            return None
        return self.pace.look(self.epoch, self._mean_loss_of(self._validation))

    def compress(self) -> tuple[int, int]:
        """Put the model into its compressed form; parameters that stay keep their optimiser state.

        Returns:
            how many parameters the model had, and has.
        """
        assert self.config.compress is not None
        before = _parameters(self.model)
        calibration = [to_device(batch, self.device) for batch in self.task.calibration(self.epoch)]
        state = optimiser_tensors(self.optimiser, self.model)
        # Of all forms, low ranks are those whose every number goes on learning.
        small = compress(self.model, self.config.compress.budget, calibration=calibration, forms="low rank")
        self._adopt(small)
        restore_optimiser(self.optimiser, self.model, state)
        self.compressed = True
        return before, _parameters(self.model)

    @torch.no_grad()
    def predict(self) -> tuple[Tensor, Tensor]:
        """`(windows, classes)` scores and `(windows,)` labels of the held-out windows, in their order."""
        self.model.eval()
        scores, labels = [], []
        for window in self._held_out:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                scores.append(self._forward(window).float().cpu())
            labels.append(window["label"].cpu())
        return torch.cat(scores), torch.cat(labels)

    def write(self, folder: Path) -> Path:
        """Write a checkpoint."""
        tensors = {**optimiser_tensors(self.optimiser, self.model), **random_tensors(), "loss": self._loss}
        state: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "compressed": self.compressed,
            "windows": self._windows,
            "pace": self.pace.state_dict(),
            "average": self.health.average,
            "cursor": self.loader.state_dict(),
            "threads": torch.get_num_threads(),
        }
        return write_checkpoint(folder, self.step, model=self.model, tensors=tensors, state=state)

    def restore(self, path: Path) -> list[str]:
        """Go back to a checkpoint.

        Returns:
            sentences about what may keep the rest of the run from being bitwise the same.
        """
        dense = self.model if self._sizes is None else expand(self.model)
        model, tensors, state = read_checkpoint(path, dense)
        self._adopt(model.to(self.device))
        restore_optimiser(self.optimiser, self.model, tensors)
        restore_random(tensors)
        self.step, self.epoch, self._windows = int(state["step"]), int(state["epoch"]), int(state["windows"])
        self.compressed = bool(state["compressed"])
        self.pace.load_state_dict(state["pace"])
        self.health.average = float(state["average"])
        self._loss = tensors["loss"].to(self.device)
        self.loader.load_state_dict(state["cursor"])
        self._batches = None
        if state["threads"] != torch.get_num_threads():
            return [
                f"resumed with {torch.get_num_threads()} threads after {state['threads']}: sums may round differently"
            ]
        return []

    def _adopt(self, model: nn.Module) -> None:
        self.model = model
        self._forward = torch.compile(model) if self.config.compile else model
        self.optimiser = make_optimiser(model, self._settings)

    def _loss_of(self, window: Window) -> Tensor:
        keep, span = self.pace.sampling(self.step)
        scores = self._forward(window, keep=keep, span=span)
        return F.cross_entropy(scores.float(), window["label"], label_smoothing=self.config.train.label_smoothing)

    @torch.no_grad()
    def _mean_loss_of(self, windows: Loader) -> float:
        self.model.eval()
        total, count = 0.0, 0
        for batch in windows:
            window = to_device(batch, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                scores = self._forward(window).float()
            total += float(F.cross_entropy(scores, window["label"], reduction="sum"))
            count += len(window["label"])
        return total / count

    def _choose_precision(self) -> None:
        recipe = self.config.recipe
        if recipe is None or not recipe.precision.use or self.config.precision != "auto":
            return
        if self.pace.bf16 is None:
            window = to_device(self.task.calibration(0)[0], self.device)
            self.model.train()
            gain = times_faster(self.model, partial(self._loss_of, window), self.device)
            self.pace.bf16_gain, self.pace.bf16 = gain, gain >= recipe.precision.gain
        self._autocast = self.pace.bf16


def _away(device: torch.device) -> torch.device | None:
    """Where batches are sent; None where they are already."""
    return None if device.type == "cpu" else device


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        ClisonixError: the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ClisonixError(f"the device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _wants_bf16(precision: str, device: torch.device) -> bool:
    """bf16 gains on GPUs with tensor cores for it; most CPUs emulate it and lose."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"
