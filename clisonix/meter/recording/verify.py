"""Recompute everything a record claims from the files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.files import sha256
from clisonix.meter.emissions.carbon import amounts, line_amounts
from clisonix.meter.recording import predictions
from clisonix.meter.recording.account import account_of, part_of
from clisonix.meter.recording.merged_record import merged_record
from clisonix.meter.recording.record import (
    Record,
    digest,
    energy_block,
    inside,
    plain_content,
    read_content,
    read_record,
)


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed, and what was checked or what differs."""

    ok: bool
    what: str


def verify(folder: Path) -> list[Finding]:
    """Check a run's folder against its record.

    The digest of the record; hash and length of every file; every energy figure and time from the traces, to
    the last bit; the model's size from its file; accuracy from the predictions; carbon from energy and factor.
    Of a merged run: every part so, and then the merged record from its parts. A trace knows the method by which its
    figures were made, so those of an older version are recomputed as they were.

    Returns:
        One finding per check; the run stands when all are ok. Never raises for a damaged run.
    """
    try:
        content, record = read_content(folder), read_record(folder)
    except ClisonixError as error:
        return [Finding(False, str(error))]
    findings = [_same("the record's digest", content.get("digest"), digest(content))]
    checks = (_files, _parts) if record.parts else (_files, _energy, _size, _quality, _carbon)
    for check in checks:
        try:
            findings.extend(check(Path(folder), record))
        except ClisonixError as error:
            findings.append(Finding(False, str(error)))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            part = check.__name__.strip("_")
            findings.append(Finding(False, f"the record's part {part!r} is damaged: {type(error).__name__}: {error}"))
    return findings


def _files(folder: Path, record: Record) -> Iterator[Finding]:
    for name, entry in record.files.items():
        try:
            path = inside(folder, name)
        except ClisonixError as error:
            yield Finding(False, str(error))
            continue
        if not path.is_file():
            yield Finding(False, f"the file {name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            yield _same(f"the length of {name}", entry["bytes"], path.stat().st_size)
        else:
            yield _same(f"the hash of {name}", entry["sha256"], sha256(path))


def _parts(folder: Path, record: Record) -> Iterator[Finding]:
    for part in record.parts:
        path, found = part_of(folder, part)
        if found.parts:
            yield Finding(False, f"the part {part['id']} is itself merged")
            continue
        yield _same(f"the digest of part {part['id']}", part["digest"], read_content(path).get("digest"))
        for finding in verify(path):
            yield Finding(finding.ok, f"part {part['id']}: {finding.what}")
    identities = [part["id"] for part in record.parts]
    if identities != sorted(set(identities)):
        yield Finding(False, "the parts are not in order, or one is there twice")
    claimed, rebuilt = plain_content(record), plain_content(merged_record(folder, identities))
    for field in claimed:
        yield _same(f"the merged {field}", claimed[field], rebuilt[field])


def _energy(folder: Path, record: Record) -> Iterator[Finding]:
    if not record.attempts:
        claims = any(record.total(name).joules is not None for name in record.energy)
        yield Finding(
            not claims, "no attempt has a trace" + (", so the energy claimed cannot be checked" if claims else "")
        )
        return
    account = account_of(folder, record)
    for attempt in record.attempts:
        if attempt["trace"] not in record.files:
            yield Finding(False, f"the trace {attempt['trace']} has no hash in the record")
    names = set(account.names()) | set(record.energy)
    if "train" not in record.energy and account.seconds("train") > 0:
        yield Finding(False, "the traces hold the window train, but the record leaves out its energy")
    for name, claimed in record.energy.items():
        yield _same(f"the energy of {name}", claimed, energy_block(account, [name])[name])
    for key, seconds in record.time.items():
        if key.removesuffix("_s") in names:
            yield _same(f"the time {key}", seconds, account.seconds(key.removesuffix("_s")))


def _size(folder: Path, record: Record) -> Iterator[Finding]:
    if "bytes" not in record.size:
        yield Finding(True, "the record claims no size")
    elif "file" not in record.size:
        yield Finding(False, "the record claims a size but names no file")
    else:
        path = inside(folder, record.size["file"])
        found = path.stat().st_size if path.is_file() else None
        yield _same(f"the size of {record.size['file']}", record.size["bytes"], found)


def _quality(folder: Path, record: Record) -> Iterator[Finding]:
    if record.quality is None or record.quality.get("value") is None:
        yield Finding(True, "the record claims no quality")
    elif record.quality["metric"] != "accuracy":
        yield Finding(True, f"not checked: {record.quality['metric']} (only accuracy is recomputed)")
    elif predictions.FILE_NAME not in record.files:
        yield Finding(False, f"the accuracy cannot be checked: {predictions.FILE_NAME} has no hash in the record")
    else:
        found = predictions.read_predictions(inside(folder, predictions.FILE_NAME)).accuracy()
        yield _same("the accuracy", {key: record.quality.get(key) for key in found}, found)


def _carbon(folder: Path, record: Record) -> Iterator[Finding]:
    claimed = record.carbon
    if not claimed or (claimed.get("grams") is None and not claimed.get("lines")):
        yield Finding(True, "the record claims no carbon")
        return
    factor = claimed["factor_g_per_kwh"]
    energy = record.total(claimed["window"])
    found: tuple[float | None, ...] = (None, None, None)
    if factor is not None:
        found = amounts(energy, factor, claimed.get("factor_low"), claimed.get("factor_high"))
    recorded = tuple(claimed.get(key) for key in ("grams", "low", "high"))
    yield _same(f"the carbon of {claimed['window']}", recorded, found)
    for line in claimed.get("lines", []):
        yield _same(f"the carbon line {line['what']!r}", line, {**line, **line_amounts(line, found)})
        if "seconds" in line:
            yield _same(
                f"the seconds of {line['what']!r}", line["seconds"], _seconds(folder, record, claimed["window"])
            )


def _seconds(folder: Path, record: Record, window: str) -> float:
    return account_of(folder, record).seconds(window)


def _same(what: str, claimed: Any, found: Any) -> Finding:  # noqa: ANN401 - whatever JSON can say
    if claimed == found:
        return Finding(True, f"{what} is as recorded")
    return Finding(False, f"{what} differs: the record says {_short(claimed)}, the files say {_short(found)}")


def _short(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict) and "total" in value:
        value = value["total"]
    if isinstance(value, dict):
        value = value.get("joules", value.get("value", value))
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
