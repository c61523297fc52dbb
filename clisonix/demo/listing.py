"""The runs in a folder, and what the list says about each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.recording.record import FILE_NAME, Record, read_record
from clisonix.meter.words import number, quantity, span

DAMAGED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a record can raise that has the right fields with the wrong things in them."""


@dataclass(frozen=True)
class Figure:
    """A number to show.

    Attributes:
        value: as recorded; None when unknown.
        text: for people.
        interval: for people; empty when there is none.
    """

    value: float | None
    text: str
    interval: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        key: the run's path within the runs folder; how it is named in addresses.
        title: the run's own name, or its key.
        task: what was learnt.
        created_utc: when it started.
        metric: what the quality is.
        quality: of the model.
        seconds: of training.
        size: bytes of the model.
        energy: joules of training.
        how: how the energy was obtained.
        problem: why there are no figures, or empty.
    """

    key: str
    title: str
    task: str = ""
    created_utc: str = ""
    metric: str = ""
    quality: Figure = Figure(None, "unknown")
    seconds: Figure = Figure(None, "unknown")
    size: Figure = Figure(None, "unknown")
    energy: Figure = Figure(None, "unknown")
    how: str = ""
    problem: str = ""


def run_folders(root: Path) -> dict[str, Path]:
    """The runs in a folder and in the groups (of seeds) it holds, by key.

    A page is only ever made for a key of this mapping, so no address can lead anywhere else. Links that
    lead out of the folder are left out.
    """
    found: dict[str, Path] = {}
    inside = root.resolve()
    for pattern in (f"*/{FILE_NAME}", f"*/*/{FILE_NAME}"):
        for path in root.glob(pattern):
            if path.is_file() and path.resolve().is_relative_to(inside):
                name = os.fsencode(path.parent.relative_to(root))
                found[name.decode(errors="backslashreplace")] = path.parent
    return dict(sorted(found.items()))


def describe(key: str, folder: Path) -> Entry:
    """The line of one run; a record that cannot be read becomes a sentence."""
    try:
        return _entry(key, read_record(folder))
    except ClisonixError as error:
        return Entry(key, key, problem=str(error))
    except DAMAGED as error:
        return Entry(key, key, problem=damage(key, error))


def damage(key: str, error: Exception) -> str:
    """The sentence for a record with the wrong things in it."""
    return f"the record of {key} is damaged ({type(error).__name__}: {error}): run clisonix verify on it"


def _entry(key: str, record: Record) -> Entry:
    energy, train_s, size = record.total("train"), record.time.get("train_s"), record.size.get("bytes")
    quality = record.quality or {}
    return Entry(
        key=key,
        title=str(record.name),
        task=str(record.task),
        created_utc=str(record.created_utc),
        metric=str(quality.get("metric", "")),
        quality=_quality(quality),
        seconds=Figure(train_s, quantity(train_s, "s")),
        size=Figure(size, quantity(size, "bytes")),
        energy=Figure(energy.joules, quantity(energy.joules, "J"), span(energy.low, energy.high, "J")),
        how=energy.how(),
    )


def _quality(quality: dict[str, Any]) -> Figure:
    value, low, high = (quality.get(key) for key in ("value", "low", "high"))
    # As the report writes it, so that the same run never shows two numbers.
    percent = quality.get("metric") == "accuracy"

    def text(x: float) -> str:
        return f"{100 * x:.1f} %" if percent else number(x)

    if value is None:
        return Figure(None, "unknown")
    return Figure(value, text(value), "" if low is None or high is None else f"{text(low)} to {text(high)}")
