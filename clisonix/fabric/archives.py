"""Unpack an archive of recordings, and make of it what recipes read."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.datasets import Archive, Dataset, listing_digest
from clisonix.fabric.embedded import watch_arrays
from clisonix.files import cannot_write, sha256


class WrongArchiveError(ClisonixError):
    """The archive is damaged, or not the one that was checked: it is not worth keeping."""


def unpack(dataset: Dataset, archive: Path, folder: Path) -> dict[str, Path]:
    """Unpack the wanted members of `archive` into `folder`, which is emptied first.

    Returns:
        path below the folder of the set to the unpacked file.

    Raises:
        WrongArchiveError: not an archive, or members that are not the pinned ones.
        ClisonixError: no room.
    """
    origin = dataset.origin
    assert isinstance(origin, Archive)
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Path] = {}
    members: list[str] = []
    try:
        with zipfile.ZipFile(archive) as content:
            for info in content.infolist():
                wanted = re.fullmatch(origin.members, info.filename)
                match = wanted or re.fullmatch(origin.also, info.filename)
                if match is None or info.is_dir():
                    continue
                path = match["path"]
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                    raise WrongArchiveError(f"{origin.url} holds the path {path!r}, which leads out of its folder")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(info) as packed, target.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 1 << 20)
                found[path] = target
                if wanted:
                    members.append(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WrongArchiveError(f"{origin.url} is not a whole zip file ({error}); nothing was unpacked") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    if not members:
        raise WrongArchiveError(f"{origin.url} holds none of the recordings of {dataset.name}")
    if dataset.listing is not None and listing_digest({p: sha256(found[p]) for p in members}) != dataset.listing:
        raise WrongArchiveError(
            f"the recordings in {origin.url} are not those that were checked for this version of clisonix; "
            "nothing was put in its place"
        )
    if dataset.prepare == "watch":
        return _watch(found, folder)
    return found


def _watch(found: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The pickled table becomes an archive of plain arrays, as `configs/watch.yaml` reads it."""
    table = found.pop("watch_dataset.npy")
    target = folder / "watch_imu.npz"
    try:
        with target.open("wb") as file:
            np.savez_compressed(file, **watch_arrays(table))  # type: ignore[arg-type]  # arrays by name
    except OSError as error:
        raise cannot_write(target, error) from error
    return {"watch_imu.npz": target, **found}
