"""The end of a run: model, predictions, record, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clisonix.compress import save
from clisonix.files import write_atomic, write_bytes
from clisonix.meter import Meter, Trace, combine
from clisonix.meter.emissions.carbon import Embodied, Pue
from clisonix.meter.recording.machine import hardware, software
from clisonix.meter.recording.predictions import read_predictions
from clisonix.meter.recording.record import Record, carbon_block, energy_block, file_entries, write_record
from clisonix.meter.reporting.report import render_html
from clisonix.train.config import RunConfig
from clisonix.train.folder import ATTEMPTS, CONFIG, LOG, MODEL, PREDICTIONS, REPORT, RunFolder, utc_now
from clisonix.train.learner import Learner


def write_predictions(path: Path, scores: Tensor, labels: Tensor) -> None:
    """Write `logits` (n, classes) float32 and `label` (n,) of the held-out windows."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, logits=scores.numpy().astype(np.float32), label=labels.numpy())

    write_atomic(path, write)


def finish(
    run: RunFolder,
    config: RunConfig,
    learner: Learner,
    meter: Meter,
    *,
    notes: list[str],
    command: str,
    visible: str | None = None,
) -> Record:
    """Write what is left to write and, last of all, the record: a folder with a record is a finished run."""
    save(learner.model, run.path / MODEL)
    meter.save_trace(run.trace)
    run.end_attempt(visible)
    attempts = run.attempts
    # Figures come from the files, so that whoever has the folder can recompute each of them.
    account = combine(Trace.load(run.path / attempt["trace"]) for attempt in attempts)
    notes = [*notes, *learner.notes]
    broken = sum(not attempt["ended_cleanly"] for attempt in attempts)
    if broken:
        notes = [
            *notes,
            f"{broken} of {len(attempts)} attempts were cut off: what each used after its last saved trace (at most "
            f"{config.train.checkpoint_every_s:g} s and one step) is not counted",
        ]
    names = ["run", "train", "evaluate", "prepare", "checkpoint"]
    names = [n for n in names if account.seconds(n) > 0]
    energy = energy_block(account, [*names, *_phases(account.names())])
    kept = [MODEL, PREDICTIONS, CONFIG, ATTEMPTS, *(a["trace"] for a in attempts)]
    if (run.path / LOG).is_file():
        kept.append(LOG)
    test, train = learner.task.test, learner.task.train
    record = Record(
        name=config.name,
        created_utc=attempts[0]["started_utc"],
        finished_utc=utc_now(),
        command=command,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        task=f"{len(learner.task.classes)} classes from {', '.join(train.modalities)}",
        data={
            "train_windows": len(train.table),
            "test_windows": len(test.table),
            "train_recordings": len(train.recordings),
            "test_recordings": len(test.recordings),
            "classes": [str(c) for c in learner.task.classes],
            "credit": config.data.credit,
        },
        quality=read_predictions(run.path / PREDICTIONS).accuracy(),
        time={f"{name}_s": account.seconds(name) for name in names},
        size={
            "file": MODEL,
            "bytes": (run.path / MODEL).stat().st_size,
            "parameters": sum(p.numel() for p in learner.model.parameters()),
        },
        energy=energy,
        carbon=carbon_block(
            account.energy("run"),
            config.place,
            "run",
            pue=Pue(**config.pue.model_dump()) if config.pue else None,
            embodied=[Embodied(**part.model_dump()) for part in config.embodied],
            seconds=account.seconds("run"),
        ),
        hardware={**hardware(_gpus(learner.device)), "threads": torch.get_num_threads()},
        software=software(),
        attempts=attempts,
        files=file_entries(run.path, kept),
        notes=notes,
    )
    write_record(run.path, record)
    write_bytes(run.path / REPORT, render_html(run.path).encode())
    return record


def _phases(names: list[str]) -> list[str]:
    """`train/dense`, `train/compress` and `train/compressed`, as far as they occur."""
    return list(dict.fromkeys("/".join(n.split("/")[:2]) for n in names if n.startswith("train/")))


def _gpus(device: torch.device) -> list[str]:
    return [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
