"""Compress the model of a finished run, and judge it on the windows it was tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clisonix.compress import compress, load, plan, save
from clisonix.errors import ClisonixError
from clisonix.fabric import SignalFabric
from clisonix.files import read_json
from clisonix.train.config import parse_config
from clisonix.train.folder import CONFIG, MODEL
from clisonix.train.task import build_model, open_task


def shrink(run: Path, budget: float, target: Path, *, root: Path | None = None) -> dict[str, Any]:
    """Compress a run's dense model to a budget, without training, calibrated on its training windows.

    Args:
        run: run folder.
        budget: below 1 a share of the bytes, above 1 bytes.
        target: where the compressed model goes; the plan goes beside it, with the ending `.plan.json`.
        root: data root.

    Returns:
        `bytes`, `dense_bytes`, `accuracy`, `dense_accuracy`, `windows`, `plan`, `file`.

    Raises:
        ClisonixError: no dense run there, unreadable data, or a budget that cannot be met.
    """
    if not (run / CONFIG).is_file():
        raise ClisonixError(f"{run} is no run folder: it has no {CONFIG}")
    if not (run / MODEL).is_file():
        raise ClisonixError(f"the run in {run} is not finished: it has no {MODEL}")
    config = parse_config(read_json(run / CONFIG), str(run / CONFIG))
    if config.compress is not None or (config.recipe is not None and config.recipe.factors.use):
        raise ClisonixError(f"the model of {run} is compressed already")
    task = open_task(config, root)
    dense = load(run / MODEL, into=build_model(config, task))
    calibration = task.calibration(0)
    chosen = plan(dense, budget=budget, calibration=calibration)
    small = compress(dense, chosen, calibration=calibration)
    save(small, target)
    plan_file = target.with_suffix(".plan.json")
    chosen.save(plan_file)
    return {
        "file": str(target),
        "plan": str(plan_file),
        "bytes": target.stat().st_size,
        "dense_bytes": (run / MODEL).stat().st_size,
        "accuracy": _accuracy(small, task.test),
        "dense_accuracy": _accuracy(dense, task.test),
        "windows": len(task.test.table),
    }


@torch.no_grad()
def _accuracy(model: nn.Module, windows: SignalFabric) -> float:
    model.eval()
    right = sum(int((model(batch).argmax(1) == batch["label"]).sum()) for batch in windows)
    return right / len(windows.table)
