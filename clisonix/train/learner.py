"""The state of a training run, and the one step that changes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress import compress
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
from clisonix.train.config import RunConfig, TrainConfig
from clisonix.train.optim import Spectral
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
        threads = config.train.loader_threads
        self.loader = Loader(task.train, threads=threads, device=_away(device))
        self._held_out = Loader(task.test, threads=threads, device=_away(device))
        self._batches: Iterator[Window] | None = None
        self._asked_s = 0.0
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
        # Batches that were made ahead stay valid when a checkpoint comes between two steps.
        if self._batches is None:
            self._batches = iter(self.loader)
        for batch in self._batches:
            window = augment(batch, train.augment, self.task.rates_hz)
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
        self._batches = None

    @property
    def input_s(self) -> float:
        """Seconds of the epoch so far that training waited for its batches, in this process."""
        return self.loader.stats.asked_s - self._asked_s

    def end_epoch(self) -> float:
        """Close the epoch and return its mean loss.

        Raises:
            ClisonixError: the loss is no longer a number.
        """
        loss = self.mean_loss()
        self.epoch += 1
        self._loss, self._windows = torch.zeros_like(self._loss), 0
        self._asked_s = self.loader.stats.asked_s
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
            "cursor": self.loader.state_dict(),
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
        self.loader.load_state_dict(state["cursor"])
        self._batches = None
        if state["threads"] != torch.get_num_threads():
            return [
                f"resumed with {torch.get_num_threads()} threads after {state['threads']}: sums may round differently"
            ]
        return []

    def _adopt(self, model: nn.Module) -> None:
        train = self.config.train
        self.model = model
        self._forward = torch.compile(model) if self.config.compile else model
        self.optimiser = make_optimiser(model, train)

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to 0 at the last step."""
        train = self.config.train
        warmup = min(1.0, (self.step + 1) / max(1.0, train.warmup * self.steps))
        return train.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))


def make_optimiser(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that a config asks for."""
    betas = (0.9, train.beta2)
    if train.optimizer == "spectral":
        # The loss is looked at anyway, and clipping has spread what is not finite over all gradients.
        return Spectral(
            model,
            lr=train.learning_rate,
            weight_decay=train.weight_decay,
            betas=betas,
            state_bits=train.state_bits,
            nonfinite="ignore",
        )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas)


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
