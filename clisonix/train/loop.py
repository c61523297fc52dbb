"""The training run, from a config to a record: read this page and you know what happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from clisonix.meter import Meter
from clisonix.meter.recording.record import Record, read_record
from clisonix.train.config import RunConfig
from clisonix.train.finish import finish, write_predictions
from clisonix.train.folder import PREDICTIONS, RunFolder
from clisonix.train.learner import Learner, choose_device
from clisonix.train.task import open_task


class Progress(Protocol):
    """Somebody who watches a run."""

    def begin(self, steps: int, done: int, meter: Meter) -> None: ...
    def step(self, step: int) -> None: ...
    def say(self, sentence: str) -> None: ...


def train(
    config: RunConfig,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    replace: bool = False,
    command: str = "",
    visible: str | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train one model and write one run folder.

    Killed at any moment and called again with `resume`, it ends with bitwise the same weights (same machine,
    same number of threads, CPU).

    Args:
        config: the recipe.
        folder: where the run goes.
        root: data root, for configs that read files below it.
        resume: go on from the newest checkpoint of `folder`.
        replace: delete the run that is in `folder` first.
        command: what was typed, for the record.
        visible: the text of `CUDA_VISIBLE_DEVICES`, for the meter.
        progress: is told about steps.

    Returns:
        the record, as written to `record.json`.

    Raises:
        ClisonixError: bad input, before anything is written; or a full disk, with the last checkpoint intact.
    """
    run, watch = RunFolder(folder), progress or _Silent()
    run.check(config, resume=resume, replace=replace)
    if resume and run.finished:
        watch.say(f"{folder} is finished already")
        return read_record(folder)
    device = choose_device(config.device)
    with _own_randomness(config.seed, device), Meter(place=config.place, visible=visible) as meter:
        with meter.window("run"):
            with meter.window("prepare"):
                task = open_task(config, root)
                learner = Learner(config, task, device)
                checkpoint = None if replace else run.latest
                notes = [*task.notes, *(learner.restore(checkpoint) if checkpoint else [])]
            run.start(config, replace=replace, visible=visible)
            meter.save_trace(run.trace)
            _train_epochs(learner, run, meter, watch)
            with meter.window("evaluate"):
                scores, labels = learner.predict()
            write_predictions(run.path / PREDICTIONS, scores, labels)
        watch.say("writing the record")
    return finish(run, config, learner, meter, notes=notes, command=command, visible=visible)


def _train_epochs(learner: Learner, run: RunFolder, meter: Meter, watch: Progress) -> None:
    settings = learner.config.train
    watch.begin(learner.steps, learner.step, meter)
    saved_s = time.monotonic()
    while not learner.finished:
        if learner.due_for_compression:
            with meter.window("train/compress"):
                before, after = learner.compress()
            watch.say(f"compressed from {before:,} to {after:,} parameters")
        name = f"train/{learner.phase}/epoch-{learner.epoch:03d}"
        over = True
        with meter.window(name):
            for step in learner.advance():
                watch.step(step)
                if time.monotonic() - saved_s >= settings.checkpoint_every_s:
                    over = False
                    break
            loss = learner.mean_loss()
        if over:
            epoch, phase, input_s = learner.epoch, learner.phase, learner.input_s
            learner.end_epoch()
            settled = None
            if learner.looking:
                with meter.window("train/look"):
                    settled = learner.look()
            _log_epoch(learner, run, meter, name, epoch, phase, loss, input_s)
            if settled:
                watch.say(settled)
        if not over or learner.finished:
            with meter.window("checkpoint"):
                learner.write(run.checkpoints)
            meter.save_trace(run.trace)
            saved_s = time.monotonic()


def _log_epoch(
    learner: Learner, run: RunFolder, meter: Meter, name: str, epoch: int, phase: str, loss: float, input_s: float
) -> None:
    settings = learner.config.train
    accuracy = None
    if settings.evaluate_every and (epoch + 1) % settings.evaluate_every == 0:
        with meter.window("evaluate"):
            scores, labels = learner.predict()
        accuracy = float(np.mean((scores.argmax(1) == labels).numpy()))
    run.log(
        {
            "event": "epoch",
            "epoch": epoch,
            "phase": phase,
            "step": learner.step,
            "loss": loss,
            "accuracy": accuracy,
            "seconds": meter.seconds(name),
            # What of these the loop waited for its batches; seconds of this attempt, as they are.
            "input_seconds": input_s,
            "joules": meter.energy(name).joules,
        }
    )


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seeded generators and deterministic kernels inside; the caller's as they were afterwards."""
    cuda = [device] if device.type == "cuda" else []
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        # On a GPU some kernels have no deterministic form, and refusing to train would help nobody.
        torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=warned)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


class _Silent:
    def begin(self, steps: int, done: int, meter: Meter) -> None: ...
    def step(self, step: int) -> None: ...
    def say(self, sentence: str) -> None: ...
