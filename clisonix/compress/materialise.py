"""A model without values, and its values put in: what loading does instead of copying weights it will replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clisonix.compress.convert import copied
from clisonix.compress.sizes import stored_tensors
from clisonix.errors import ClisonixError

M = TypeVar("M", bound=nn.Module)


def on_meta(model: M) -> tuple[M, dict[str, torch.device]]:
    """A copy of `model` whose stored tensors are on the meta device, and where each of them was, by name.

    What files do not hold (buffers that are not persistent) is copied with its values.

    Raises:
        ClisonixError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    devices = {}
    for name, tensor in stored_tensors(model).items():
        devices[name] = tensor.device
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    return copied(model, memo), devices


def fill(
    model: nn.Module,
    read: Callable[[str], Tensor],
    devices: Mapping[str, torch.device],
    device: torch.device | str | None = None,
) -> None:
    """Give every stored tensor of `model` its values, wherever it is referred to.

    Args:
        model: whose stored tensors are on the meta device.
        read: the values by the tensor's name.
        devices: where the tensors of the ordinary model were, by name.
        device: for all; by default that of the tensor, or of the weight it is a part of, or the CPU for meta.

    Raises:
        ClisonixError: a tensor that is not stored has no values either.
    """
    for name, tensor in stored_tensors(model).items():
        place = torch.device(device) if device is not None else _place(name, devices)
        values = read(name).to(place)
        fresh = (
            nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
        )
        _replace(model, tensor, fresh)
    fallback = torch.device(device) if device is not None else _place("", devices)
    for module_name, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and buffer.numel() == 0:
                setattr(module, name, torch.empty_like(buffer, device=fallback))
            elif buffer.is_meta:
                whole = f"{module_name}.{name}" if module_name else name
                raise ClisonixError(
                    f"{whole!r} is a buffer that no file holds, and it has no values on the meta device; "
                    "build the model on the CPU"
                )
            elif device is not None:
                setattr(module, name, buffer.to(device))


def _replace(model: nn.Module, tensor: Tensor, fresh: Tensor) -> None:
    try:
        # Modules may refer to their tensors in lists of their own: the tensor itself should change.
        torch.utils.swap_tensors(tensor, fresh)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # It cannot while weak references look at it, as those of torch's recurrent layers do; these notice a new one.
        for module in model.modules():
            for name, held in (*module._parameters.items(), *module._buffers.items()):
                if held is tensor:
                    setattr(module, name, fresh)


def _place(name: str, devices: Mapping[str, torch.device]) -> torch.device:
    """Where the tensor, or the weight whose part it is, was; the first device of the model for anything else."""
    while name and name not in devices:
        name = name.rpartition(".")[0]
    found = devices.get(name) or next(iter(devices.values()), torch.device("cpu"))
    return torch.device("cpu") if found.type == "meta" else found
