"""The folder of a metered run: its traces while it runs, its record and report at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, read_json, write_bytes, write_json
from clisonix.meter.emissions.factors import carbon_factor
from clisonix.meter.recording.conditions import conditions, node
from clisonix.meter.recording.machine import hardware, software
from clisonix.meter.recording.record import FILE_NAME as RECORD
from clisonix.meter.recording.record import Record, carbon_block, energy_block, file_entries, write_record
from clisonix.meter.recording.trace import Attempts, Trace, combine
from clisonix.meter.reporting.report import render_html

STATE, REPORT = "run.json", "report.html"
RESUMED = "It was resumed from a checkpoint; what was used before that is not in this folder and is not counted."


class RunFolder:
    """One metered run on disk, under way.

    `run.json` holds what the record says of the run besides its figures, and is written first: a folder that a killed
    process left can so be closed later.

    Args:
        path: the folder.
        state: what `run.json` holds.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path, self._state = path, state

    @staticmethod
    def begin(
        path: Path,
        *,
        resume: bool = False,
        visible: str | None = None,
        rank: int | None = None,
        name: str | None = None,
        command: str = "",
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        place: str | None = None,
        packages: Iterable[str] = ("clisonix",),
    ) -> RunFolder:
        """Make the folder, or open that of a run that goes on, and begin an attempt.

        Args:
            path: a folder that does not exist or is empty; with `resume`, one that holds an earlier attempt.
            resume: the run goes on from a checkpoint.
            visible: the text of `CUDA_VISIBLE_DEVICES`: the GPUs whose state is noted.
            rank: of this process, where several make one run.
            name: of the run; None takes the folder's.
            command: what was typed.
            config: the recipe, as JSON values.
            seed: of all randomness.
            place: see `carbon`.
            packages: those whose versions the record names.

        Raises:
            ClisonixError: the folder holds something else or cannot be written, or the place is unknown.
        """
        path = Path(path)
        check_free(path, resume)
        if place is not None:
            carbon_factor(place)  # an unknown place must not come up after hours of training
        attempts, notes = [], []
        if (path / STATE).is_file():
            before = _read_state(path)
            attempts, notes = before["attempts"], before["notes"]
        elif resume:
            notes = [RESUMED]
        attempt = {
            "trace": f"trace-{len(attempts)}.npz",
            "started_utc": _utc_now(),
            "ended_cleanly": False,
            "node": node(),
            "conditions": {"start": conditions(visible)},
        }
        if rank is not None:
            attempt["rank"] = rank
        state = {
            "name": name or path.resolve().name,
            "command": command,
            "config": dict(config or {}),
            "seed": seed,
            "place": place,
            "packages": list(packages),
            "notes": notes,
            "attempts": [*attempts, attempt],
        }
        run = RunFolder(path, state)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        run._write_state()
        return run

    @staticmethod
    def left(path: Path) -> RunFolder:
        """A folder that a killed process left.

        Raises:
            ClisonixError: it holds no metered run.
        """
        return RunFolder(Path(path), _read_state(Path(path)))

    @property
    def trace(self) -> Path:
        """The trace file of the newest attempt."""
        return self.path / str(self._state["attempts"][-1]["trace"])

    def end(
        self,
        *,
        visible: str | None = None,
        notes: Iterable[str] = (),
        size: Mapping[str, Any] | None = None,
        **about: Any,  # noqa: ANN401 - whatever JSON can say
    ) -> Record:
        """Note that this attempt came to its end, and close the run.

        Args:
            visible: as in `begin`.
            notes: sentences for the reader.
            size: see `Record`.
            about: further entries of the attempt; `ended_cleanly` is True unless given.
        """
        attempt = self._state["attempts"][-1]
        attempt.update({"ended_cleanly": True, **about})
        attempt["conditions"]["end"] = conditions(visible)
        self._state["notes"] = list(dict.fromkeys([*self._state["notes"], *notes]))
        self._write_state()
        return self.close(size)

    def close(self, size: Mapping[str, Any] | None = None) -> Record:
        """Write the record, and then the report, from the files that are there.

        Figures are taken from the traces, so that whoever has the folder can recompute them.

        Args:
            size: see `Record`.

        Raises:
            ClisonixError: there is no trace at all, one is damaged, or the folder cannot be written.
        """
        state = self._state
        attempts = [a for a in state["attempts"] if (self.path / a["trace"]).is_file()]
        if not attempts:
            raise ClisonixError(f"{self.path} holds no trace: the run ended before the first one was written")
        account = combine(Trace.load(self.path / a["trace"]) for a in attempts)
        names = list(dict.fromkeys(name.split("/")[0] for name in account.names()))
        record = Record(
            name=state["name"],
            created_utc=state["attempts"][0]["started_utc"],
            finished_utc=_utc_now(),
            command=state["command"],
            config=state["config"],
            seed=state["seed"],
            time={f"{name}_s": account.seconds(name) for name in names},
            size=dict(size or {}),
            energy=energy_block(account),
            carbon=carbon_block(account.energy("run"), state["place"], "run"),
            hardware=hardware(_gpus(account)),
            software=software(state["packages"]),
            attempts=attempts,
            files=file_entries(self.path, [STATE, *(a["trace"] for a in attempts)]),
            notes=[*state["notes"], *_notes(account, state["attempts"])],
        )
        write_record(self.path, record)
        write_bytes(self.path / REPORT, render_html(self.path).encode())
        return record

    def _write_state(self) -> None:
        write_json(self.path / STATE, self._state)


def check_free(path: Path, resume: bool = False) -> None:
    """Refuse a folder where a run would be lost or mixed with another; writes nothing.

    Raises:
        ClisonixError: the folder holds something, other than the earlier attempts of a run that is to go on.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise ClisonixError(f"{path} is no folder: give another one for the run")
    # What a killed process was about to write begins with a dot.
    if not any(not name.startswith(".") for name in os.listdir(path)):
        return
    if not (path / STATE).is_file():
        what = "a run of another kind" if (path / RECORD).is_file() else "something that is no run"
        raise ClisonixError(f"{path} holds {what}: give a new folder for the run")
    if not resume:
        raise ClisonixError(f"{path} holds a run already: give a new folder, or delete that one first")


def _read_state(path: Path) -> dict[str, Any]:
    if not (path / STATE).is_file():
        raise ClisonixError(f"{path} holds no metered run: it has no {STATE}")
    state = read_json(path / STATE)
    if not isinstance(state, dict) or not isinstance(state.get("attempts"), list) or not state["attempts"]:
        raise ClisonixError(f"{path / STATE} is damaged: it must hold an object with the run's attempts")
    return {"command": "", "config": {}, "seed": None, "place": None, "packages": [], "notes": [], **state}


def _gpus(account: Attempts) -> list[str]:
    """Models of the GPUs that were watched, each device once."""
    found: dict[str, str] = {}
    for trace in account.traces:
        for series in trace.series:
            if series.info.device.startswith("gpu"):
                found[series.uuid or series.info.device] = str(series.info.parameters.get("model", "GPU"))
    return list(found.values())


def _notes(account: Attempts, attempts: list[dict[str, Any]]) -> list[str]:
    notes = []
    if gpus := len(_gpus(account)):
        which = "the GPU" if gpus == 1 else f"all {gpus} GPUs"
        notes.append(f"GPU energy is that of {which} as a whole: whatever else ran there meanwhile is in it.")
    # Where the end of a program was seen, its meter ended with it, however it ended.
    cut = sum(not attempt["ended_cleanly"] and "exit_code" not in attempt for attempt in attempts)
    if cut:
        notes.append(
            f"{cut} of {len(attempts)} attempts cut off: what was used after the last saved trace is not counted."
        )
    return notes


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
