"""Merging the runs of several ranks or nodes into one record.

A merged folder keeps every part whole under `parts/<id>/`, where the id is the start of the part's own digest. Its
record is a function of that set of parts, so merging is idempotent, commutative and associative, and `verify` can
rebuild it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write
from clisonix.meter.recording.account import part_of
from clisonix.meter.recording.merged_record import FOLDER, merged_record
from clisonix.meter.recording.record import FILE_NAME, Record, inside, read_content, read_record, write_record
from clisonix.meter.recording.verify import verify

ID_LENGTH = 16


def merge(folders: Sequence[Path], out: Path) -> Record:
    """Write a merged run.

    Args:
        folders: run folders, of ranks or nodes of one job, or folders that were merged before.
        out: the merged folder; may be one that was merged before, which is then replaced.

    Returns:
        The merged record.

    Raises:
        ClisonixError: a folder is no run or does not verify, or `out` is something else than a merged run.
    """
    if not folders:
        raise ClisonixError("nothing to merge: give at least one run folder")
    out = Path(out)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_merged(out))):
        raise ClisonixError(f"{out} exists and is no merged run: give another --out")
    parts = _parts(map(Path, folders))
    draft = out.parent / f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        seen: dict[str, Path] = {}
        for identity, (folder, record) in parts.items():
            _copy(folder, record, draft / FOLDER / identity, seen)
        merged = merged_record(draft, parts.keys())
        write_record(draft, merged)
        if out.exists():
            old = out.parent / f".{out.name}.{os.getpid()}.old"
            out.rename(old)
            draft.rename(out)
            shutil.rmtree(old)
        else:
            draft.rename(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return merged


def _parts(folders: Iterable[Path]) -> dict[str, tuple[Path, Record]]:
    found: dict[str, tuple[Path, Record]] = {}
    for folder in folders:
        wrong = [finding.what for finding in verify(folder) if not finding.ok]
        if wrong:
            raise ClisonixError(f"{folder} cannot be merged: {wrong[0]}; run clisonix verify on it")
        record = read_record(folder)
        for path, part in [part_of(folder, part) for part in record.parts] or [(folder, record)]:
            if not part.attempts:
                raise ClisonixError(f"{path} cannot be merged: its record names no trace")
            found[str(read_content(path)["digest"])[:ID_LENGTH]] = (path, part)
    return dict(sorted(found.items()))


def _is_merged(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file() and bool(read_record(folder).parts)


def _copy(folder: Path, record: Record, to: Path, seen: dict[str, Path]) -> None:
    """Copy a part's files; what an earlier part holds too, a model for example, is linked."""
    to.mkdir(parents=True)
    shutil.copyfile(folder / FILE_NAME, to / FILE_NAME)
    for name, entry in record.files.items():
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(seen[entry["sha256"]], target)
        except (KeyError, OSError):  # nothing to link to, or a file system without links
            shutil.copyfile(inside(folder, name), target)
            seen[entry["sha256"]] = target
