"""Model files: safetensors that say how the model is built. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clisonix.compress.convert import checked_sites, converted
from clisonix.compress.forms import Form, form_of
from clisonix.compress.header import declared_forms
from clisonix.compress.layers import held_matrices
from clisonix.compress.materialise import fill, on_meta
from clisonix.compress.plans import compressed_specs, file_metadata, stored_form
from clisonix.compress.sizes import DTYPES, TensorSpec, spec_of, stored_tensors
from clisonix.compress.survey import survey
from clisonix.errors import ClisonixError
from clisonix.files import save_tensors, write_atomic
from clisonix.liam.matrix import Matrix
from clisonix.liam.tiled import tile_


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights and the structure of a model, compressed or dense, atomically.

    The file is ordinary safetensors; its metadata names the form of every compressed weight. The same model always
    gives the same bytes. A tensor reachable under several names is stored once.

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
    metadata = file_metadata(_forms(model))

    write_atomic(Path(path), lambda temporary: save_tensors(tensors, temporary, metadata))


def load(path: str | Path, *, into: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """The model in a file written by `save`.

    Names, dtypes, shapes and forms are checked against `into` before anything is allocated. A plain safetensors
    file of the dense model's state is accepted as well.

    Args:
        path: of the file.
        into: a dense model of the original architecture, freshly initialised or on the meta device; it is not
            changed, and none of its stored weights is needed. The result takes its training mode.
        device: of the result; by default every tensor's own in `into`, and the CPU instead of the meta device.

    Returns:
        A new model with the structure and, bit for bit, the weights of the file; on a CPU tiled, as `compress` does.

    Raises:
        ClisonixError: the file is missing, damaged, or of another model.
    """
    sites = survey(into, values=False)
    dense = [spec_of(name, tensor) for name, tensor in stored_tensors(into).items()]
    try:
        with safe_open(Path(path), framework="pt") as file:
            forms = declared_forms(file.metadata(), path)
            try:
                chosen = checked_sites(sites, forms)
                shaped = {site.name: (forms[site.name], site.matrix_shape) for site in chosen}
                for name, (form, shape) in shaped.items():
                    form.check(name, shape)
            except ClisonixError as error:
                raise ClisonixError(f"{path} does not suit this model: {error}") from None
            _compare(compressed_specs(dense, shaped), _read_specs(file), path)
            empty, devices = on_meta(into)
            matrices = {name: form.empty(shape, device="meta") for name, (form, shape) in shaped.items()}
            model = converted(empty, matrices) if matrices else empty
            fill(model, file.get_tensor, devices, device)
    except SafetensorError as error:
        raise ClisonixError(f"{path} is damaged or not a safetensors file ({error}); copy it again") from error
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    for name, matrix in _matrices(model):
        try:
            # Forms check what a file may have damaged, such as places, when a state is loaded: here, none.
            for part in matrix.modules():
                part.load_state_dict({}, strict=False)
        except ClisonixError as error:
            raise ClisonixError(f"{path} is damaged: {name!r}: {error}") from None
    return tile_(model)


def _matrices(model: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """Every weight that is a matrix, once, by its first name in the state."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        for weight, matrix in held_matrices(module):
            if id(matrix) not in seen:
                seen.add(id(matrix))
                yield f"{name}.{weight}" if name else weight, matrix


def _forms(model: nn.Module) -> dict[str, Form]:
    """The structure of a model, read off its layers, so that nothing can disagree with them."""
    forms = {}
    for name, matrix in _matrices(model):
        try:
            forms[name] = stored_form(form_of(matrix), DTYPES[matrix.dtype])
        except ClisonixError as error:
            raise ClisonixError(f"{name!r} cannot be saved: {error}") from None
    return forms


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
