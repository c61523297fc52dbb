"""What a model shares with the other nodes, and the state they agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

State = dict[str, Tensor]
"""The agreed state: contiguous CPU tensors under `outer/`, `momentum/` and `buffer/`, and the count `syncs`.

`outer/` and `momentum/` are float32 (float64 for float64 parameters) whatever the model trains in, so that
small outer steps are not lost in half precision.
"""


@dataclass(frozen=True)
class Shared:
    """The live tensors of a model, by name and by what happens to them at a sync.

    Attributes:
        trained: floating and complex parameters: the outer optimiser steps them.
        averaged: floating and complex buffers, such as batch statistics: their mean is taken.
        copied: integer and boolean tensors, such as counters and packed codes: rank 0's are taken.
    """

    trained: dict[str, Tensor]
    averaged: dict[str, Tensor]
    copied: dict[str, Tensor]

    def all(self) -> dict[str, Tensor]:
        """Every shared tensor by name."""
        return {**self.trained, **self.averaged, **self.copied}

    def describe(self) -> list[str]:
        """One line per tensor: kind, name, dtype and shape; equal on nodes that can work together."""
        kinds = {"trained": self.trained, "averaged": self.averaged, "copied": self.copied}
        return [
            f"{kind} {name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            for kind, tensors in kinds.items()
            for name, tensor in tensors.items()
        ]

    def not_finite(self) -> str | None:
        """The name of the first parameter that holds a NaN or an infinity."""
        return next((name for name, tensor in self.trained.items() if not tensor.isfinite().all()), None)


def shared_tensors(model: nn.Module) -> Shared:
    """Sort the tensors of a model: all parameters, and the buffers that its state_dict would save.

    Buffers that are not saved are caches each node can rebuild, so they stay local.

    Raises:
        ClisonixError: a tensor is sharded, lazy, without storage or otherwise not a plain tensor.
    """
    saved = model.state_dict(keep_vars=True)
    trained: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] = {}
    copied: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        _require_plain(name, parameter)
        (trained if _is_averageable(parameter) else copied)[name] = parameter
    for name, buffer in model.named_buffers():
        if name in saved:
            _require_plain(name, buffer)
            (averaged if _is_averageable(buffer) else copied)[name] = buffer
    if not trained:
        raise ClisonixError("the model has no floating-point parameter, so there is nothing to train together")
    return Shared(trained, averaged, copied)


def initial_state(shared: Shared) -> State:
    """The state at the start: the model as it is, no momentum, no sync yet."""
    state: State = {}
    for name, parameter in shared.trained.items():
        real = real_view(parameter)
        wide = torch.float64 if real.dtype == torch.float64 else torch.float32
        state[f"outer/{name}"] = host_copy(real).to(wide)
    for name in shared.trained:
        state[f"momentum/{name}"] = torch.zeros_like(state[f"outer/{name}"])
    for name, buffer in {**shared.averaged, **shared.copied}.items():
        state[f"buffer/{name}"] = host_copy(real_view(buffer))
    state["syncs"] = torch.zeros((), dtype=torch.int64)
    return state


@torch.no_grad()
def write_into(shared: Shared, state: Mapping[str, Tensor]) -> None:
    """Overwrite the live tensors in place, so that the inner optimiser keeps its references."""
    for name, parameter in shared.trained.items():
        real_view(parameter).copy_(state[f"outer/{name}"])
    for name, buffer in {**shared.averaged, **shared.copied}.items():
        real_view(buffer).copy_(state[f"buffer/{name}"])


def real_view(tensor: Tensor) -> Tensor:
    """The tensor without autograd; a complex one as (..., 2) real numbers."""
    plain = tensor.detach()
    return torch.view_as_real(plain) if plain.is_complex() else plain


def host_copy(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy that shares nothing with the original."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _is_averageable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _require_plain(name: str, tensor: Tensor) -> None:
    kind = type(tensor)
    plain = kind in (Tensor, nn.Parameter, nn.Buffer) and tensor.layout is torch.strided
    if not plain or tensor.is_meta:
        what = "a meta tensor" if tensor.is_meta else f"a {kind.__name__} of layout {tensor.layout}"
        raise ClisonixError(
            f"{name!r} is {what}, but Tide shares whole dense tensors: join with an unsharded model whose "
            "parameters are materialised"
        )
