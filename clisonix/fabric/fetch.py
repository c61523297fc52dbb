"""Bring a public set of recordings onto this machine, checked, and whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric.bring import RECORD, Job, bring_archive, bring_listed, must_be
from clisonix.fabric.datasets import Archive, Dataset
from clisonix.fabric.download import Patience
from clisonix.files import cannot_write, read_json


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did.

    Attributes:
        folder: where the set is.
        arrived: files that were downloaded or unpacked.
        kept: files that were there already and have the right hash.
        notes: a sentence for everything that was taken on trust.
    """

    folder: Path
    arrived: int
    kept: int
    notes: tuple[str, ...] = ()


def fetch(
    dataset: Dataset,
    root: Path,
    *,
    subset: Mapping[str, str] | None = None,
    jobs: int = 4,
    arrived: Callable[[int], None] | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Bring `dataset`, or a part of it, into the folder `root/NAME`.

    Every file is checked against the server's list of hashes and against what is pinned in this package, and moved
    to its place whole. What is there already is checked and kept; a file that differs is never overwritten. Killed
    anywhere, the next call goes on with the bytes that had arrived. `fetched.json` beside the files keeps their
    hashes, source and licence.

    Args:
        dataset: from `clisonix.fabric.datasets`.
        root: data root, as `clisonix train --data` takes it.
        subset: see `Dataset.select`.
        jobs: files at a time.
        arrived: called with the number of bytes that have arrived since the last call, from several threads.
        patience: with the server.

    Raises:
        ClisonixError: no network, a file that is not there or has a wrong hash, no room, another process that fetches
            the same set, or pooch missing.
    """
    wanted = dataset.select(subset)
    folder = root / dataset.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with _alone(folder, dataset.name):
        job = Job(dataset, folder, patience or Patience(), _together(arrived), _recorded(folder))
        if subset is None and (kept := _complete(job)):
            return Fetched(folder, 0, kept)
        bring = bring_archive if isinstance(dataset.origin, Archive) else bring_listed
        count, kept = bring(job, wanted, jobs)
        if not any(job.staging.rglob("*.part")):  # a part of what was not asked for this time is still worth having
            shutil.rmtree(job.staging, ignore_errors=True)
        return Fetched(folder, count, kept, tuple(job.notes))


def _complete(job: Job) -> int:
    """The number of files if all of them are there as recorded, else 0. Asks no server."""
    data = {path: hash_ for path, hash_ in job.known.items() if not path.startswith(".")}
    members = [path for path in data if job.dataset.is_member(path) or not job.dataset.fields]
    if len(members) < job.dataset.files or not all((job.folder / path).is_file() for path in data):
        return 0
    for path, hash_ in data.items():
        must_be(job.folder / path, hash_)
    return len(data)


def _recorded(folder: Path) -> dict[str, str]:
    if not (folder / RECORD).is_file():
        return {}
    content = read_json(folder / RECORD)
    hashes = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(hashes, dict):
        raise ClisonixError(f"{folder / RECORD} is not a record of a fetch; delete it, and files are checked anew")
    return {str(path): str(hash_) for path, hash_ in hashes.items()}


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock on the folder, which the system takes away when the process ends in whatever way."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ClisonixError(f"another process is fetching {name} into {folder}: wait until it is done") from error
        yield
    finally:
        os.close(handle)


def _together(arrived: Callable[[int], None] | None) -> Callable[[int], None]:
    lock = threading.Lock()

    def tell(count: int) -> None:
        if arrived is not None:
            with lock:
                arrived(count)

    return tell
