"""Checkpoints: everything a run needs to go on to bitwise the same end."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clisonix.compress import load, save
from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, fsync_folder, read_json, save_tensors, sha256, write_atomic, write_json

_KEPT = 2
_MODEL, _TENSORS, _STATE, _MANIFEST = "model.safetensors", "training.safetensors", "state.json", "manifest.json"


def write_checkpoint(
    folder: Path, step: int, *, model: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint; it is either whole or not there. All but the last two are removed.

    Args:
        folder: the folder of checkpoints.
        step: names the checkpoint.
        model: dense or compressed.
        tensors: optimiser and random state.
        state: counters and the stream cursor, as JSON.

    Returns:
        the checkpoint's own folder.

    Raises:
        ClisonixError: the disk is full or cannot be written; earlier checkpoints are as they were.
    """
    final = folder / f"step-{step:08d}"
    # Between two writes at one step only an epoch can have ended, which going on from the first repeats.
    if final.exists():
        return final
    draft = folder / f".draft-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        save(model, draft / _MODEL)
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_atomic(draft / _TENSORS, lambda temporary: save_tensors(plain, temporary))
        write_json(draft / _STATE, state)
        hashes = {name: sha256(draft / name) for name in (_MODEL, _TENSORS, _STATE)}
        write_json(draft / _MANIFEST, {"schema": "clisonix.checkpoint/1", "step": step, "sha256": hashes})
        fsync_folder(draft)
        draft.rename(final)
        fsync_folder(folder)
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in list_checkpoints(folder)[:-_KEPT]:
        _remove(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name))


def read_checkpoint(path: Path, into: nn.Module) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint after checking every hash.

    Args:
        path: the checkpoint's own folder.
        into: a dense model of the same architecture; it is not changed.

    Returns:
        the model in the form it was saved in, the tensors, the state.

    Raises:
        ClisonixError: a file is missing or does not have the hash that was written with it.
    """
    manifest = read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("schema") != "clisonix.checkpoint/1":
        raise ClisonixError(f"{path / _MANIFEST} is not a checkpoint manifest of this version")
    for name in (_MODEL, _TENSORS, _STATE):
        file = path / name
        if not file.is_file():
            raise ClisonixError(
                f"the checkpoint {path} has no {name}; delete that folder to go on from an earlier one"
            )
        if sha256(file) != manifest["sha256"].get(name):
            raise ClisonixError(
                f"{file} does not have the hash that was written with it, so it is damaged; delete the folder "
                f"{path.name} to go on from an earlier checkpoint"
            )
    return load(path / _MODEL, into=into), load_file(path / _TENSORS), read_json(path / _STATE)


def clear_drafts(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in folder.glob(".draft-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state under the names of the parameters it belongs to."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"optimiser/{names[id(p)]}/{key}": value
        for group in optimiser.param_groups
        for p in group["params"]
        for key, value in optimiser.state.get(p, {}).items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put state back where it fits; a parameter that has none (a new factor) starts afresh."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        if kind != "optimiser" or name not in parameters:
            continue
        parameter = parameters[name]
        # Scales of packed state belong to blocks of entries.
        if value.ndim and value.shape != parameter.shape and not slot.endswith("_scale"):
            raise ClisonixError(f"the checkpoint's optimiser state of {name} has shape {tuple(value.shape)}")
        # AdamW keeps its step counter on the CPU unless it is capturable.
        optimiser.state[parameter][slot] = value.to(parameter.device) if value.ndim else value


def random_tensors() -> dict[str, Tensor]:
    """The state of torch's generators."""
    state = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state |= {f"random/cuda-{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random(tensors: Mapping[str, Tensor]) -> None:
    """Set torch's generators."""
    torch.set_rng_state(tensors["random/cpu"])
    for key, value in tensors.items():
        if key.startswith("random/cuda-"):
            torch.cuda.set_rng_state(value, int(key.rpartition("-")[2]))


def _remove(path: Path) -> None:
    """A kill in the middle must not leave something that looks like a checkpoint."""
    trash = path.with_name(f".draft-{secrets.token_hex(4)}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
