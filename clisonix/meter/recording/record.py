"""The record of a run: what ran, what it gave, what it cost, and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from clisonix.errors import ClisonixError, nearest
from clisonix.files import read_json, sha256, write_json
from clisonix.meter.emissions.carbon import Embodied, Pue, carbon
from clisonix.meter.energy import Energy

SCHEMA_NAME, SCHEMA_VERSION = "clisonix.record", 2
"""Version 2 added `parts` and the range of carbon; the first is still read. How figures follow from a trace is the
trace's own version: `verify` expects them to the last bit."""
SCHEMA = f"{SCHEMA_NAME}/{SCHEMA_VERSION}"
FILE_NAME = "record.json"


@dataclass
class Record:
    """One run. Every value is what JSON can say; a figure that is not finite is written as null.

    Attributes:
        name: of the run.
        created_utc: ISO time of the first start.
        finished_utc: ISO time of the end; None while it has none.
        command: what was typed.
        config: the recipe.
        seed: of all randomness; pairs runs in a comparison.
        task: one line: what is learnt.
        data: the data set, free form.
        quality: `metric`, `value`, `low`, `high`, `n`, `higher_is_better`; None before evaluation.
        time: seconds; `train_s` is the window `train`.
        size: `bytes`, `parameters`, `file` (the model's file in the folder).
        energy: window name to `{"total": Energy, "devices": [Energy]}`, as JSON; see `energy_block`.
        carbon: see `carbon_block`.
        hardware: `cpu`, `cores`, `gpus`.
        software: versions by name.
        attempts: one per start of the run: `trace` (file in the folder), `started_utc`, `ended_cleanly`; where known
            `node` and `conditions` (`start` and `end`), see the functions of those names, and `rank`.
        files: file name to `sha256` and `bytes`; see `file_entries`.
        notes: sentences for the reader.
        parts: of a merged record, the records it was made from: `id`, `digest`, `name`, `folder`; see `merge`.
        schema: version of the layout that was read; what is written is always the newest.
    """

    name: str
    created_utc: str
    finished_utc: str | None = None
    command: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    task: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] | None = None
    time: dict[str, float] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)
    energy: dict[str, dict[str, Any]] = field(default_factory=dict)
    carbon: dict[str, Any] | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    schema: str = SCHEMA

    def total(self, window: str) -> Energy:
        """The energy of a window, or a missing figure with its reason."""
        if window not in self.energy:
            return Energy.unknown(f"the record has no energy for the window {window!r}")
        return Energy.from_json(self.energy[window]["total"])

    def devices(self, window: str) -> list[Energy]:
        """The figures of every sensor for a window."""
        return [Energy.from_json(part) for part in self.energy.get(window, {}).get("devices", [])]


class Account(Protocol):
    """What answers for windows: a `Trace` or `Attempts`."""

    def names(self) -> list[str]: ...
    def seconds(self, name: str) -> float: ...
    def readings(self, name: str) -> list[Energy]: ...
    def energy(self, name: str) -> Energy: ...


def write_record(folder: Path, record: Record) -> Path:
    """Write `record.json` into the run's folder, atomically, with a digest over its content.

    Raises:
        ClisonixError: the disk is full, or the folder cannot be written.
    """
    path = Path(folder) / FILE_NAME
    content = plain_content(record)
    write_json(path, {**content, "digest": digest(content)})
    return path


def plain_content(record: Record) -> dict[str, Any]:
    """What `write_record` writes, without the digest."""
    content: dict[str, Any] = _finite(asdict(record))
    return {**content, "schema": SCHEMA}


def read_record(folder: Path) -> Record:
    """Read a run's record.

    Raises:
        ClisonixError: it is missing, damaged, or of a newer version.
    """
    content = read_content(folder)
    content.pop("digest", None)
    return Record(**content)


def read_content(folder: Path) -> dict[str, Any]:
    """The record as it stands in the file, digest included; see `read_record` for errors."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise ClisonixError(
            f"{folder} is not a run: it has no {FILE_NAME}; give the folder that a training run wrote"
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise ClisonixError(f"{path} is damaged: it must hold a JSON object")
    name, _, version = str(content.get("schema", "")).partition("/")
    if name != SCHEMA_NAME or not version.isdigit():
        raise ClisonixError(f"{path} has the schema {content.get('schema')!r}; expected {SCHEMA!r}")
    if int(version) > SCHEMA_VERSION:
        raise ClisonixError(
            f"{path} was written by a newer clisonix ({name}/{version}); this one reads {SCHEMA}: update clisonix"
        )
    known = {f.name: f for f in fields(Record)}
    for key in content.keys() - known.keys() - {"digest"}:
        raise ClisonixError(f"{path} is damaged: it has the unknown field {key!r}{nearest(key, known)}")
    absent = {"name", "created_utc"} - content.keys()
    if absent:
        raise ClisonixError(f"{path} is damaged: the fields {sorted(absent)} are missing")
    for key, kind in (
        ("energy", dict),
        ("files", dict),
        ("attempts", list),
        ("time", dict),
        ("size", dict),
        ("hardware", dict),
        ("parts", list),
    ):
        if not isinstance(content.get(key, kind()), kind):
            raise ClisonixError(f"{path} is damaged: the field {key!r} is not a {kind.__name__}")
    return content


def digest(content: dict[str, Any]) -> str:
    """SHA-256 over a record's content without its digest, whatever the layout of the file."""
    plain = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def energy_block(account: Account, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """The field `energy` of a record.

    Args:
        account: the trace that was saved, or all attempts; `verify` recomputes from those files.
        names: window names; None takes every first level (`train`) and second level (`train/dense`).
    """
    if names is None:
        split = [name.split("/") for name in account.names()]
        names = dict.fromkeys([p[0] for p in split] + ["/".join(p[:2]) for p in split if len(p) > 2])
    return {
        name: {
            "total": account.energy(name).to_json(),
            "devices": [reading.to_json() for reading in account.readings(name)],
        }
        for name in names
    }


def carbon_block(
    energy: Energy,
    place: str | None,
    window: str,
    *,
    pue: Pue | None = None,
    embodied: Sequence[Embodied] = (),
    seconds: float | None = None,
) -> dict[str, Any]:
    """The field `carbon` of a record: the emissions of one window, and which.

    Args:
        energy: of the window.
        place: see `carbon`.
        window: its name.
        pue: see `carbon`.
        embodied: see `carbon`.
        seconds: of the window; needed with `embodied`.
    """
    return {**carbon(energy, place, pue=pue, embodied=embodied, seconds=seconds).to_json(), "window": window}


def file_entries(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The field `files` of a record: hash and length of files in the run's folder."""
    found = {name: inside(folder, name) for name in names}
    return {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in found.items()}


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a record names.

    Raises:
        ClisonixError: the name leads out of the run's folder.
    """
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise ClisonixError(
            f"the record names the file {name!r}, which is outside its folder {folder}: do not trust it"
        )
    return path


def _finite(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can say
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
