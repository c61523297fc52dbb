"""A joint snapshot: everything a training needs to go on, in hashed shards, written beside the training.

A snapshot is a folder of safetensors shards and `manifest.json`, which names every tensor, where its parts lie, and
the SHA-256 of every shard. It appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, fsync_folder, read_json, save_tensors, sha256

_MANIFEST = "manifest.json"
_VERSION = 1


def save(
    folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None, shards: int = 1
) -> None:
    """Write a snapshot; an older one at the same place is replaced when the new one is whole.

    Args:
        folder: that becomes the snapshot.
        tensors: by name, on any device.
        facts: what else there is to say, as JSON.
        shards: files of about the same size.

    Raises:
        ClisonixError: the disk is full or cannot be written; what was there before is unchanged.
    """
    if shards < 1:
        raise ClisonixError(f"shards is {shards!r}, but a snapshot needs 1 or more")
    flat = {name: tensor.detach().cpu().contiguous().view(-1) for name, tensor in tensors.items()}
    total = sum(tensor.nbytes for tensor in flat.values())
    parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
    entries: dict[str, Any] = {}
    room, number, left = -(-total // shards), 0, 0
    left = room
    for name, tensor in flat.items():
        places: list[list[int]] = []
        start = 0
        while start < tensor.numel() or not places:
            if left < tensor.element_size() and number < shards - 1:
                number, left = number + 1, left + room
                continue
            fits = tensor.numel() - start if number == shards - 1 else left // tensor.element_size()
            stop = min(tensor.numel(), start + fits)
            parts[number][f"{name}@{start}"] = tensor[start:stop]
            places.append([number, start, stop])
            left -= (stop - start) * tensor.element_size()
            start = stop
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "parts": places}
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        hashes = {}
        for index, part in enumerate(parts):
            path = temporary / f"shard-{index:05d}.safetensors"
            save_tensors(part, path)
            hashes[path.name] = sha256(path)
            _sync(path)
        manifest = {"version": _VERSION, "shards": hashes, "tensors": entries, "facts": dict(facts or {})}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, allow_nan=False), encoding="utf-8")
        _sync(temporary / _MANIFEST)
        fsync_folder(temporary)
        _replace(temporary, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a snapshot, after all shards were checked.

    Raises:
        ClisonixError: a shard is damaged or missing; it is named.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_bytes

    folder = _latest(folder)
    manifest = verify(folder)
    try:
        shards = [load_bytes((folder / name).read_bytes()) for name in manifest["shards"]]
        tensors = {}
        for name, entry in manifest["tensors"].items():
            pieces = [shards[number][f"{name}@{start}"] for number, start, _ in entry["parts"]]
            whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            tensors[name] = whole.view(entry["shape"])
    except (SafetensorError, KeyError, IndexError, TypeError, RuntimeError, OSError) as error:
        raise ClisonixError(f"the snapshot {folder} does not hold what its manifest says ({error})") from error
    return tensors, manifest["facts"]


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a snapshot whose shards are all as they were written.

    Raises:
        ClisonixError: naming the shard that is damaged or missing.
    """
    folder = _latest(folder)
    manifest = read_json(folder / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION:
        raise ClisonixError(f"{folder / _MANIFEST} is no manifest of version {_VERSION}: restore it from a copy")
    for name, expected in manifest["shards"].items():
        path = folder / name
        if not path.is_file():
            raise ClisonixError(f"the shard {path} is missing: restore it from a copy or use an older snapshot")
        if sha256(path) != expected:
            raise ClisonixError(f"the shard {path} is damaged: restore it from a copy or use an older snapshot")
    return manifest


def reshard(source: Path, target: Path, shards: int) -> None:
    """Write the same snapshot with another number of shards."""
    tensors, facts = load(source)
    save(target, tensors, facts, shards)


class SnapshotWriter:
    """Writes snapshots in a thread of its own; the training waits only for a copy in memory.

    The copy goes into memory that is kept from one snapshot to the next, since fresh memory costs more than copying.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "clisonix-snapshot")
        self._last: Future[None] | None = None
        self._kept: dict[str, Tensor] = {}

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Have the memory ready before the first `save`, which otherwise waits for the system to hand it out."""
        self._kept = {name: torch.empty(each.shape, dtype=each.dtype).fill_(0) for name, each in tensors.items()}

    def save(
        self, folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None, shards: int = 1
    ) -> None:
        """Copy, and write later; waits for the snapshot before, and raises what went wrong with it."""
        self.wait()
        kept: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            old = self._kept.get(name)
            same = old is not None and old.shape == tensor.shape and old.dtype == tensor.dtype
            kept[name] = old if same and old is not None else torch.empty(tensor.shape, dtype=tensor.dtype)
            kept[name].copy_(tensor.detach())
        self._kept = kept
        self._last = self._pool.submit(save, folder, kept, dict(facts or {}), shards)

    def wait(self) -> None:
        """Until the last snapshot is on the disk.

        Raises:
            ClisonixError: it could not be written.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _replace(new: Path, folder: Path) -> None:
    """Put `new` where `folder` is; a crash in between leaves the old one under a name that `load` knows."""
    old = folder.parent / f".{folder.name}.old"
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _latest(folder: Path) -> Path:
    old = folder.parent / f".{folder.name}.old"
    return old if not folder.exists() and old.exists() else folder


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
