"""Run folders as the comparison sees them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError
from clisonix.meter.energy import Energy, best, modelled
from clisonix.meter.recording import predictions
from clisonix.meter.recording.account import account_of
from clisonix.meter.recording.merged_account import Merged
from clisonix.meter.recording.record import FILE_NAME, Record, inside, read_record
from clisonix.meter.recording.trace import Attempts

EPOCH = re.compile(r"^train/(.+)/epoch-\d+$")


@dataclass(frozen=True)
class Run:
    """One run's folder and record; `group` is the folder it was found in, when that was what was named."""

    folder: Path
    record: Record
    group: Path | None = None

    @property
    def name(self) -> str:
        """The folder's name, after that of its group."""
        own = self.folder.resolve().name
        return own if self.group is None else f"{self.group.resolve().name}/{own}"

    @cached_property
    def account(self) -> Attempts | Merged | None:
        """The traces of all attempts, or of all parts; None where they are not there any more."""
        try:
            return account_of(self.folder, self.record)
        except (ClisonixError, KeyError):
            return None

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
        folders = [self.folder, *(inside(self.folder, part["folder"]) for part in self.record.parts)]
        paths = [path for folder in folders if (path := folder / predictions.FILE_NAME).is_file()]
        return predictions.read_predictions(paths[0]) if paths else None

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
class Model:
    """What one model gave: joules at its central coefficient, and the ends of the coefficient's range over that."""

    joules: float
    scale_low: float
    scale_high: float


@dataclass(frozen=True)
class Parts:
    """Training energy split into what was measured and what was modelled (by source of the model), in joules."""

    measured: float
    measured_low: float
    measured_high: float
    models: dict[str, Model]

    @staticmethod
    def of(run: Run) -> Parts:
        """Split a run's training energy."""
        known = [part for part in best(run.record.devices("train")) if part.joules]
        measured = [part for part in known if not modelled(part.source)]
        models = [_model(part) for part in known if modelled(part.source)]
        return Parts(
            sum(part.joules or 0.0 for part in measured),
            sum(part.low or 0.0 for part in measured),
            sum(part.high or 0.0 for part in measured),
            _joined(models),
        )

    @staticmethod
    def sum(given: Iterable[Parts]) -> Parts:
        """The parts of several runs."""
        parts = list(given)
        return Parts(
            sum(part.measured for part in parts),
            sum(part.measured_low for part in parts),
            sum(part.measured_high for part in parts),
            _joined([item for part in parts for item in part.models.items()]),
        )

    def at(self, measured: float, scales: Mapping[str, float]) -> float:
        """The sum with this much measured and these coefficients over their central values."""
        return measured + sum(model.joules * scales[source] for source, model in self.models.items())


def _model(part: Energy) -> tuple[str, Model]:
    joules = part.joules or 0.0
    return part.source, Model(joules, (part.low or 0.0) / joules, (part.high or joules) / joules)


def _joined(models: Iterable[tuple[str, Model]]) -> dict[str, Model]:
    """One entry per source; the widest range of a coefficient holds for all."""
    found: dict[str, Model] = {}
    for source, model in models:
        other = found.get(source, Model(0.0, model.scale_low, model.scale_high))
        found[source] = Model(
            other.joules + model.joules,
            min(other.scale_low, model.scale_low),
            max(other.scale_high, model.scale_high),
        )
    return found


SEPARATOR = "vs"


def two_sides(words: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Split what was typed into the folders of side a and side b.

    Args:
        words: two folders; or any number on each side with the word `vs` between the sides. A folder of that
            very name is written `./vs`.

    Raises:
        ClisonixError: the sides cannot be told apart.
    """
    if SEPARATOR in words:
        i = list(words).index(SEPARATOR)
        a, b = words[:i], words[i + 1 :]
        if not a or not b or SEPARATOR in b:
            raise ClisonixError(f"{' '.join(words)!r} has not one {SEPARATOR!r} with folders on both of its sides")
    elif len(words) == 2:
        a, b = words[:1], words[1:]
    else:
        raise ClisonixError(
            f"given {len(words)} folders: give two, or put the word {SEPARATOR!r} between the sides, "
            f"like A1 A2 {SEPARATOR} B1 B2"
        )
    return [Path(word) for word in a], [Path(word) for word in b]


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in the given folders.

    Args:
        paths: run folders, or folders that hold run folders (a group of seeds).

    Raises:
        ClisonixError: a path is neither.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if (path / FILE_NAME).is_file():
            runs.append(Run(path, read_record(path)))
            continue
        folders = sorted(found.parent for found in path.glob(f"*/{FILE_NAME}"))
        if not folders:
            raise ClisonixError(
                f"{path} holds no run: give a folder with a {FILE_NAME}, or one that contains such folders"
            )
        runs.extend(Run(folder, read_record(folder), path) for folder in folders)
    if not runs:
        raise ClisonixError("nothing to compare: give at least one run folder on each side")
    return runs
