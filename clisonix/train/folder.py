"""The run folder: config, log, traces, checkpoints, results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.files import append_lines, cannot_write, read_json, write_json
from clisonix.meter.recording.conditions import conditions, node
from clisonix.meter.recording.record import FILE_NAME as RECORD
from clisonix.train.checkpoint import clear_drafts, list_checkpoints
from clisonix.train.config import RunConfig

CONFIG, LOG, ATTEMPTS = "config.json", "log.jsonl", "attempts.json"
MODEL, PREDICTIONS, REPORT = "model.safetensors", "predictions.npz", "report.html"


class RunFolder:
    """One run on disk. Nothing is written before `start`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoint"

    @property
    def finished(self) -> bool:
        """Whether the run has its record."""
        return (self.path / RECORD).is_file()

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint, if any."""
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """One entry per start: `trace`, `started_utc`, `ended_cleanly`, `node` and `conditions`."""
        path = self.path / ATTEMPTS
        entries: list[dict[str, Any]] = read_json(path) if path.is_file() else []
        return entries

    @property
    def trace(self) -> Path:
        """The trace file of the attempt that is under way."""
        return self.path / str(self.attempts[-1]["trace"])

    def check(self, config: RunConfig, *, resume: bool, replace: bool) -> None:
        """Refuse to start where a run would be lost or mixed with another; writes nothing.

        Raises:
            ClisonixError: the folder holds a run and neither `resume` nor `replace` is given, holds something
                else, or is to be resumed with another config.
        """
        if not self.path.exists() or (self.path.is_dir() and not self._visible()):
            if resume:
                raise ClisonixError(f"there is no run to resume in {self.path}; leave out --resume to start one")
            return
        if not (self.path / CONFIG).is_file():
            raise ClisonixError(f"{self.path} exists and is no run folder; give another --out")
        before, now = read_json(self.path / CONFIG), config.model_dump(mode="json")
        if replace:
            # A slip in --out must not cost somebody another run.
            if before.get("name") != config.name:
                raise ClisonixError(
                    f"{self.path} holds the run {before.get('name')!r}, not {config.name!r}; delete it yourself"
                )
            return
        if not resume:
            raise ClisonixError(
                f"{self.path} holds a run already; use --resume to go on, --replace, or another --out"
            )
        if before != now:
            raise ClisonixError(
                f"{self.path} was started with another config ({_first_difference(before, now)}); "
                "resume with the same one or give another --out"
            )

    def start(self, config: RunConfig, *, replace: bool, visible: str | None = None) -> None:
        """Make or re-open the folder and begin an attempt.

        Args:
            config: of the run.
            replace: delete what is there first.
            visible: the text of `CUDA_VISIBLE_DEVICES`: the GPUs whose state is noted.
        """
        try:
            if replace and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            # First of all: a folder without a config is nobody's run, and a kill may come at any time.
            write_json(self.path / CONFIG, config.model_dump(mode="json"))
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        clear_drafts(self.checkpoints)
        entries = self.attempts
        entries.append(
            {
                "trace": f"trace-{len(entries)}.npz",
                "started_utc": utc_now(),
                "ended_cleanly": False,
                "node": node(),
                "conditions": {"start": conditions(visible)},
            }
        )
        write_json(self.path / ATTEMPTS, entries)

    def end_attempt(self, visible: str | None = None) -> None:
        """Note that this attempt came to its end, and the state of the machine then; `visible` as in `start`."""
        entries = self.attempts
        entries[-1]["ended_cleanly"] = True
        entries[-1]["conditions"]["end"] = conditions(visible)
        write_json(self.path / ATTEMPTS, entries)

    def _visible(self) -> list[Path]:
        """What is in the folder, without the drafts of a killed process."""
        return [p for p in self.path.iterdir() if not p.name.startswith(".")]

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one JSON line to the log."""
        append_lines(self.path / LOG, [line])


def utc_now() -> str:
    """The time of the wall clock, for display."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _first_difference(before: object, now: object, path: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            if before.get(key) != now[key]:
                return _first_difference(before.get(key), now[key], f"{path}.{key}".lstrip("."))
    return f"{path} was {before!r}, is {now!r}"
