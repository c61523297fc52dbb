"""Model files: safetensors that say how the model is built. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clisonix.compress.convert import check_sites, empty
from clisonix.compress.layers import LiamConv, LiamLinear
from clisonix.compress.plans import METADATA_KEY, MODEL_SCHEMA, compressed_specs, file_metadata
from clisonix.compress.sizes import TensorSpec, spec_of, stored_tensors
from clisonix.compress.survey import survey
from clisonix.errors import ClisonixError
from clisonix.files import save_tensors, write_atomic
from clisonix.liam.lowrank import LowRank


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights and the structure of a model, compressed or dense, atomically.

    The file is ordinary safetensors; its metadata lists the compressed layers and their ranks. The same
    model always gives the same bytes. A tensor reachable under several names is stored once.

    Args:
        model: any model whose state is dense tensors. What `torch.compile` wraps is stored as if unwrapped.
        path: of the file; its folder is made if need be.

    Raises:
        ClisonixError: something that cannot be stored, a full disk, a folder that cannot be written.
    """
    model = getattr(model, "_orig_mod", model)
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, held in stored_tensors(model).items():
        if held.device.type == "meta":
            raise ClisonixError(f"{name} is on the meta device and has no values to save; load the model first")
        tensor = held.detach().contiguous()
        # safetensors refuses two tensors in one storage, although their values are perfectly clear.
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in memory else tensor
        memory.add(storage)
    metadata = file_metadata(_ranks(model))

    write_atomic(Path(path), lambda temporary: save_tensors(tensors, temporary, metadata))


def load(path: str | Path, *, into: nn.Module) -> nn.Module:
    """The model in a file written by `save`.

    Names, dtypes, shapes and ranks are checked against `into` before anything is allocated. A plain
    safetensors file of the dense model's state is accepted as well.

    Args:
        path: of the file.
        into: a dense model of the original architecture; it is not changed. The result takes its device
            and training mode.

    Returns:
        A new model with the structure and, bit for bit, the weights of the file.

    Raises:
        ClisonixError: the file is missing, damaged, or of another model.
    """
    sites = survey(into)
    dense = stored_tensors(into)
    for name, tensor in dense.items():
        if tensor.device.type == "meta":
            raise ClisonixError(f"{name} is on the meta device; call into.to_empty(device=...) before loading")
    try:
        with safe_open(Path(path), framework="pt") as file:
            ranks = _read_ranks(file.metadata(), path)
            try:
                chosen = check_sites(sites, ranks)
            except ClisonixError as error:
                raise ClisonixError(f"{path} does not suit this model: {error}") from None
            specs = compressed_specs((spec_of(name, tensor) for name, tensor in dense.items()), ranks)
            _compare(specs, _read_specs(file), path)
            model = empty(into, chosen, ranks)
            with torch.no_grad():
                for name, target in stored_tensors(model).items():
                    target.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise ClisonixError(f"{path} is damaged or not a safetensors file ({error}); copy it again") from error
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    return model


def _ranks(model: nn.Module) -> dict[str, int]:
    """The structure of a model, read off its layers, so that nothing can disagree with them."""
    ranks = {}
    for name, module in model.named_modules():
        if isinstance(module, LiamLinear | LiamConv):
            if not isinstance(module.weight, LowRank):
                raise ClisonixError(
                    f"layer {name!r} holds a {type(module.weight).__name__}; this version stores only LowRank"
                )
            ranks[name] = module.weight.rank
    return ranks


def _read_ranks(metadata: Mapping[str, str] | None, path: str | Path) -> dict[str, int]:
    """The ranks that the metadata of a file declares; types are checked here, ranks against the model later."""
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        return {}
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClisonixError(f"{path} is damaged: its plan is not valid JSON; copy the file again") from error
    match content:
        case {"schema": str(schema)} if schema != MODEL_SCHEMA:
            raise ClisonixError(
                f"{path} has format {schema!r} but this version reads {MODEL_SCHEMA!r}; update clisonix"
            )
        case {"schema": str(), "plan": None, **rest} if not rest:
            return {}
        case {"schema": str(), "plan": dict(plan), **rest} if not rest:
            ranks = {}
            for name, entry in plan.items():
                if not isinstance(entry, list) or len(entry) != 2 or entry[0] != "lowrank":
                    raise ClisonixError(f"{path} plans {entry!r} for layer {name!r}; expected ['lowrank', rank]")
                ranks[name] = entry[1]
            return ranks
    raise ClisonixError(f"{path} is damaged: its plan is not one this program wrote; copy the file again")


def _read_specs(file: Any) -> list[TensorSpec]:  # noqa: ANN401 - safetensors does not type its handle
    specs = []
    for name in file.keys():  # noqa: SIM118 - the handle is no mapping
        part = file.get_slice(name)
        specs.append(TensorSpec(name, part.get_dtype(), tuple(part.get_shape())))
    return specs


def _compare(expected: list[TensorSpec], found: list[TensorSpec], path: str | Path) -> None:
    there = {spec.name: spec for spec in found}
    here = {spec.name: spec for spec in expected}
    for name in sorted(here.keys() | there.keys()):
        if name not in there:
            raise ClisonixError(f"{path} lacks the tensor {name!r} of this model; load it into its own architecture")
        if name not in here:
            raise ClisonixError(
                f"{path} holds the tensor {name!r}, which this model has not; load it into its own architecture"
            )
        if here[name].shape != there[name].shape:
            raise ClisonixError(
                f"{path} holds {name!r} with shape {there[name].shape} where this model needs {here[name].shape}; "
                "load it into its own architecture"
            )
        if here[name].dtype != there[name].dtype:
            raise ClisonixError(
                f"{path} holds {name!r} as {there[name].dtype} where this model has {here[name].dtype}; "
                "convert the model with .to(dtype) before loading"
            )
