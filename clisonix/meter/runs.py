"""Run folders as the comparison sees them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError
from clisonix.meter import predictions
from clisonix.meter.energy import MODELLED, Energy, best
from clisonix.meter.record import FILE_NAME, Record, inside, read_record
from clisonix.meter.trace import Attempts, Trace, combine

EPOCH = re.compile(r"^train/(.+)/epoch-\d+$")


@dataclass(frozen=True)
class Run:
    """One run's folder and record."""

    folder: Path
    record: Record

    @cached_property
    def account(self) -> Attempts | None:
        """The traces of all attempts; None where they are not there any more."""
        try:
            traces = [Trace.load(inside(self.folder, attempt["trace"])) for attempt in self.record.attempts]
        except (ClisonixError, KeyError):
            return None
        return combine(traces) if traces else None

    @property
    def train_s(self) -> float | None:
        """Training time in seconds."""
        return self.record.time.get("train_s")

    @property
    def train(self) -> Energy:
        """Training energy."""
        return self.record.total("train")

    @property
    def hardware(self) -> tuple[str, ...]:
        """What must agree for times and energies to be comparable."""
        hardware = self.record.hardware
        gpus = ", ".join(map(str, hardware.get("gpus") or [])) or "no GPU"
        return str(hardware.get("cpu", "unknown CPU")), f"{hardware.get('cores', 'unknown')} hardware threads", gpus

    def predictions(self) -> predictions.Predictions | None:
        """The test predictions, or None where there are none."""
        path = self.folder / predictions.FILE_NAME
        return predictions.read_predictions(path) if path.is_file() else None

    def epochs(self, quantity: str) -> dict[str, NDArray[np.float64]] | None:
        """Time (`quantity="time"`) or energy of each epoch window, by phase; None when some value is missing."""
        if self.account is None:
            return None
        phases: dict[str, list[float]] = {}
        for name in self.account.names():
            if match := EPOCH.match(name):
                value = self.account.seconds(name) if quantity == "time" else self.account.energy(name).joules
                if value is None:
                    return None
                phases.setdefault(match[1], []).append(value)
        return {phase: np.array(values) for phase, values in phases.items()} or None


@dataclass(frozen=True)
class Parts:
    """Training energy split into what was measured and what was modelled, in joules."""

    measured: float
    measured_low: float
    measured_high: float
    modelled: float
    scale_low: float
    scale_high: float

    @staticmethod
    def of(run: Run) -> Parts:
        """Split a run's training energy; `scale` is a modelled joule's bounds over its central value."""
        known = [part for part in best(run.record.devices("train")) if part.joules]
        measured = [part for part in known if part.source != MODELLED]
        models = [part for part in known if part.source == MODELLED]
        modelled = sum(part.joules or 0.0 for part in models)
        return Parts(
            sum(part.joules or 0.0 for part in measured),
            sum(part.low or 0.0 for part in measured),
            sum(part.high or 0.0 for part in measured),
            modelled,
            sum(part.low or 0.0 for part in models) / modelled if modelled else 1.0,
            sum(part.high or 0.0 for part in models) / modelled if modelled else 1.0,
        )

    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the sum."""
        return (
            self.measured_low + self.modelled * self.scale_low,
            self.measured_high + self.modelled * self.scale_high,
        )


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in the given folders.

    Args:
        paths: run folders, or folders that hold run folders (a group of seeds).

    Raises:
        ClisonixError: a path is neither.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        folders = [path] if (path / FILE_NAME).is_file() else sorted(f.parent for f in path.glob(f"*/{FILE_NAME}"))
        if not folders:
            raise ClisonixError(
                f"{path} holds no run: give a folder with a {FILE_NAME}, or one that contains such folders"
            )
        runs.extend(Run(folder, read_record(folder)) for folder in folders)
    if not runs:
        raise ClisonixError("nothing to compare: give at least one run folder on each side")
    return runs
