"""The record of a set of parts: ranks or nodes of one job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from clisonix.meter.emissions.carbon import amounts
from clisonix.meter.recording.account import sources_of
from clisonix.meter.recording.merged_account import Merged
from clisonix.meter.recording.record import (
    FILE_NAME,
    Record,
    energy_block,
    file_entries,
    inside,
    read_content,
    read_record,
)
from clisonix.meter.recording.shared_clocks import Source

FOLDER = "parts"


def merged_record(folder: Path, identities: Iterable[str]) -> Record:
    """The record of a set of parts.

    Args:
        folder: the merged folder, holding the parts.
        identities: of the parts, in any order.

    Raises:
        ClisonixError: a part is missing or damaged.
    """
    entries: list[dict[str, Any]] = []
    records: dict[str, Record] = {}
    sources: dict[str, list[Source]] = {}
    for identity in sorted(set(identities)):
        path = inside(folder, f"{FOLDER}/{identity}")
        content = read_content(path)
        records[identity] = read_record(path)
        sources[identity] = sources_of(path, records[identity])
        about = {"digest": content.get("digest"), "name": content["name"], "folder": f"{FOLDER}/{identity}"}
        entries.append({"id": identity, **about})
    account = Merged(source for found in sources.values() for source in found)
    every = list(records.values())
    same = _Same(every)
    windows = list(dict.fromkeys(name for record in every for name in record.energy))
    energy = energy_block(account, windows)
    known = {*account.names(), *windows}
    keys = sorted({key for record in every for key in record.time if key.removesuffix("_s") in known})
    record = Record(
        name=" + ".join(sorted({record.name for record in every})),
        created_utc=min(record.created_utc for record in every),
        finished_utc=max(r.finished_utc or "" for r in every) if all(r.finished_utc for r in every) else None,
        command=same.of("command", lambda r: r.command) or "",
        config=same.of("config", lambda r: r.config) or {},
        seed=same.of("seed", lambda r: r.seed),
        task=same.of("task", lambda r: r.task) or "",
        data=same.of("data", lambda r: r.data) or {},
        quality=same.of("quality", lambda r: r.quality),
        time={key: account.seconds(key.removesuffix("_s")) for key in keys},
        size=_size(records, same),
        energy=energy,
        hardware=_hardware(records, sources, account),
        software=_software(every),
        attempts=[
            {**attempt, "trace": f"{FOLDER}/{identity}/{attempt['trace']}", "part": identity}
            for identity, record in records.items()
            for attempt in record.attempts
        ],
        files=file_entries(folder, [f"{FOLDER}/{identity}/{FILE_NAME}" for identity in records]),
        parts=entries,
    )
    record.carbon = _carbon(record, every)
    record.notes = [
        *sorted({note for part in every for note in part.notes}),
        *account.conflicts,
        *same.notes,
    ]
    return record


class _Same:
    """Values that all parts agree on; what they do not agree on is left out, and said."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self.notes: list[str] = []

    def of(self, what: str, ask: Callable[[Record], Any]) -> Any:  # noqa: ANN401 - whatever JSON can say
        answers = [answer for record in self._records if (answer := ask(record)) not in (None, "", {})]
        if all(answer == answers[0] for answer in answers[1:]):
            return answers[0] if answers else None
        self.notes.append(f"The parts differ in {what}, so the merged record has none.")
        return None


def _size(records: Mapping[str, Record], same: _Same) -> dict[str, Any]:
    size = same.of("size", lambda record: record.size)
    if not size:
        return {}
    holder = next(identity for identity, record in records.items() if record.size)
    return {**size, **({"file": f"{FOLDER}/{holder}/{size['file']}"} if "file" in size else {})}


def _hardware(records: Mapping[str, Record], sources: Mapping[str, list[Source]], account: Merged) -> dict[str, Any]:
    cores: dict[str, int] = {}
    for identity, record in records.items():
        for source in sources[identity]:
            machine = account.machine_of(source.key)
            cores[machine] = max(cores.get(machine, 0), int(record.hardware.get("cores") or 0))
    cpus = sorted({str(record.hardware["cpu"]) for record in records.values() if record.hardware.get("cpu")})
    gpus = list(account.gpus.values())
    # A GPU without a sensor has no UUID here; the longest list that a part wrote is then all that is known.
    named = max((list(record.hardware.get("gpus") or []) for record in records.values()), key=len)
    return {"cpu": " + ".join(cpus), "cores": sum(cores.values()), "gpus": gpus or named, "nodes": len(cores)}


def _software(records: list[Record]) -> dict[str, str]:
    names = sorted({name for record in records for name in record.software})
    versions = {name: sorted({r.software[name] for r in records if name in r.software}) for name in names}
    return {name: " / ".join(found) for name, found in versions.items()}


def _carbon(record: Record, parts: list[Record]) -> dict[str, Any] | None:
    """The merged energy times the parts' own factor; nothing is looked up again, so that it can be recomputed."""
    about = ("factor_g_per_kwh", "factor_low", "factor_high", "range_how", "place", "source", "year", "window")
    blocks = [part.carbon for part in parts if part.carbon and part.carbon.get("factor_g_per_kwh") is not None]
    if not blocks or any(block.get(key) != blocks[0].get(key) for block in blocks for key in about):
        return {"grams": None, "reason": "the parts have no carbon factor in common", "lines": []}
    given: dict[str, Any] = {key: blocks[0].get(key) for key in about}
    energy = record.total(given["window"])
    grams, low, high = amounts(energy, given["factor_g_per_kwh"], given["factor_low"], given["factor_high"])
    lost = any(block.get("lines") for block in blocks)
    reason = "; ".join(
        [energy.reason or ""] * bool(energy.reason) + ["further lines of the parts are not merged"] * lost
    )
    return {"grams": grams, "low": low, "high": high, **given, "reason": reason or None, "lines": []}
