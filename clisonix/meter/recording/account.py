"""The account behind a record: what its figures are recomputed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.recording.merged_account import Merged
from clisonix.meter.recording.record import Record, inside, read_record
from clisonix.meter.recording.shared_clocks import Source
from clisonix.meter.recording.trace import Attempts, Trace, combine


def account_of(folder: Path, record: Record) -> Attempts | Merged:
    """The traces of a run's attempts, or of all parts of a merged run.

    Raises:
        ClisonixError: a trace is missing or damaged, or the record names none.
    """
    if record.parts:
        return Merged(source for part in record.parts for source in sources_of(*part_of(folder, part)))
    if not record.attempts:
        raise ClisonixError(f"the record in {folder} names no trace, so its figures cannot be recomputed")
    return combine(Trace.load(inside(folder, attempt["trace"])) for attempt in record.attempts)


def part_of(folder: Path, part: dict[str, Any]) -> tuple[Path, Record]:
    """The folder and the record of one part of a merged run."""
    path = inside(folder, part["folder"])
    return path, read_record(path)


def sources_of(folder: Path, record: Record) -> list[Source]:
    """The traces of a run, each with its identity.

    Raises:
        ClisonixError: a trace is missing, damaged or without a hash.
    """
    found = []
    for attempt in record.attempts:
        name = attempt["trace"]
        if name not in record.files:
            raise ClisonixError(f"the trace {name} in {folder} has no hash in its record, so it cannot be merged")
        rank = attempt.get("rank")
        label = f"rank-{rank}" if rank is not None else ""
        found.append(
            Source(Trace.load(inside(folder, name)), record.files[name]["sha256"], label, attempt.get("node"))
        )
    return found
