"""The file that a coordinator begins with: it trains nothing itself, so it needs no code of the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from clisonix.errors import ClisonixError
from clisonix.files import save_tensors
from clisonix.tide.flat import Flat
from clisonix.tide.replica import Schema


def write_start(model: nn.Module, path: Path) -> None:
    """Write what all sites of a training share at the beginning, as safetensors.

    Raises:
        ClisonixError: the model cannot be shared, or the file cannot be written.
    """
    flat = Flat(model)
    save_state(flat.schema, flat.read(), path)


def save_state(schema: Schema, vector: NDArray[np.float32], path: Path) -> None:
    """Write `(size,)` values as named tensors."""
    import torch

    tensors, at = {}, 0
    for name, shape in [*schema.trained.items(), *schema.averaged.items()]:
        number = int(np.prod(shape, dtype=np.int64))
        tensors[name] = torch.from_numpy(vector[at : at + number].copy()).view(shape)
        at += number
    order = {"trained": list(schema.trained), "averaged": list(schema.averaged)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path, {"tide": json.dumps(order)})


def read_start(path: Path) -> tuple[Schema, NDArray[np.float32]]:
    """Schema and values of `write_start`.

    Raises:
        ClisonixError: it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            order = json.loads((file.metadata() or {})["tide"])
            tensors = {name: file.get_tensor(name) for part in ("trained", "averaged") for name in order[part]}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ClisonixError(f"{path} is no start of a Tide training ({error}): make one with write_start") from error
    schema = Schema(*({name: tensors[name].shape for name in order[part]} for part in ("trained", "averaged")))
    parts = [tensors[name].astype(np.float32).reshape(-1) for name in [*schema.trained, *schema.averaged]]
    return schema, np.concatenate(parts)
