"""The state of a training run, and the one step that changes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress import compress
from clisonix.errors import ClisonixError
from clisonix.fabric import Window
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
        self._loss, self._windows = torch.zeros((), device=device), 0
        self._autocast = _wants_bf16(config.precision, device)
        self._adopt(self.model)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.epochs * len(self.task.train)

    @property
    def phase(self) -> str:
        """`dense` or `compressed`: part of the window names of the meter."""
        return "compressed" if self.compressed else "dense"

    @property
    def due_for_compression(self) -> bool:
        """Whether the dense share of the epochs is over."""
        plan = self.config.compress
        return plan is not None and not self.compressed and self.epoch >= round(plan.after * self.config.train.epochs)

    def advance(self) -> Iterator[int]:
        """Train on the rest of the epoch, one step at a time; ends with the epoch.

        Raises:
            ClisonixError: the loss is no longer a number.
        """
        train = self.config.train
        self.model.train()
        for batch in self.task.train:
            window = augment(to_device(batch, self.device), train.augment, self.task.rates_hz)
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                scores = self._forward(window)
            loss = F.cross_entropy(scores.float(), window["label"], label_smoothing=train.label_smoothing)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), train.clip_norm)
            self.optimiser.step()
            self.step += 1
            self._loss += loss.detach() * len(window["label"])
            self._windows += len(window["label"])
            yield self.step

    def end_epoch(self) -> float:
        """Close the epoch and return its mean loss.

        Raises:
            ClisonixError: the loss is no longer a number.
        """
        loss = self.mean_loss()
        self.epoch += 1
        self._loss, self._windows = torch.zeros_like(self._loss), 0
        return loss

    def mean_loss(self) -> float:
        """Mean loss of the epoch so far; waits for the device.

        Raises:
            ClisonixError: the loss is no longer a number.
        """
        loss = float(self._loss) / max(self._windows, 1)
        if not math.isfinite(loss):
            raise ClisonixError(
                f"the loss became {loss} in epoch {self.epoch} before step {self.step}; the last checkpoint is from "
                "before that, so lower train.learning_rate and start again"
            )
        return loss

    def compress(self) -> tuple[int, int]:
        """Put the model into its compressed form; parameters that stay keep their optimiser state.

        Returns:
            how many parameters the model had, and has.
        """
        assert self.config.compress is not None
        before = _parameters(self.model)
        calibration = [to_device(batch, self.device) for batch in self.task.calibration(self.epoch)]
        state = optimiser_tensors(self.optimiser, self.model)
        self._adopt(compress(self.model, self.config.compress.budget, calibration=calibration))
        restore_optimiser(self.optimiser, self.model, state)
        self.compressed = True
        return before, _parameters(self.model)

    @torch.no_grad()
    def predict(self) -> tuple[Tensor, Tensor]:
        """`(windows, classes)` scores and `(windows,)` labels of the held-out windows, in their order."""
        self.model.eval()
        scores, labels = [], []
        for batch in self.task.test:
            window = to_device(batch, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                scores.append(self._forward(window).float().cpu())
            labels.append(batch["label"])
        return torch.cat(scores), torch.cat(labels)

    def write(self, folder: Path) -> Path:
        """Write a checkpoint."""
        tensors = {**optimiser_tensors(self.optimiser, self.model), **random_tensors(), "loss": self._loss}
        state: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch,
            "compressed": self.compressed,
            "windows": self._windows,
            "cursor": self.task.train.state_dict(),
            "threads": torch.get_num_threads(),
        }
        return write_checkpoint(folder, self.step, model=self.model, tensors=tensors, state=state)

    def restore(self, path: Path) -> list[str]:
        """Go back to a checkpoint.

        Returns:
            sentences about what may keep the rest of the run from being bitwise the same.
        """
        model, tensors, state = read_checkpoint(path, self.model)
        self._adopt(model.to(self.device))
        restore_optimiser(self.optimiser, self.model, tensors)
        restore_random(tensors)
        self.step, self.epoch, self._windows = int(state["step"]), int(state["epoch"]), int(state["windows"])
        self.compressed = bool(state["compressed"])
        self._loss = tensors["loss"].to(self.device)
        self.task.train.load_state_dict(state["cursor"])
        if state["threads"] != torch.get_num_threads():
            return [
                f"resumed with {torch.get_num_threads()} threads after {state['threads']}: sums may round differently"
            ]
        return []

    def _adopt(self, model: nn.Module) -> None:
        train = self.config.train
        self.model = model
        self._forward = torch.compile(model) if self.config.compile else model
        matrices = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, train.beta2))

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to 0 at the last step."""
        train = self.config.train
        warmup = min(1.0, (self.step + 1) / max(1.0, train.warmup * self.steps))
        return train.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))


def to_device(window: Window, device: torch.device) -> Window:
    """A batch on a device."""
    moved = {
        key: {name: x.to(device, non_blocking=True) for name, x in value.items()}
        if isinstance(value, dict)
        # Times are float64, which some devices lack, and no model needs them.
        else (value if key == "t0_s" else cast(Tensor, value).to(device, non_blocking=True))
        for key, value in window.items()
    }
    return cast(Window, moved)


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
