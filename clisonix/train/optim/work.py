"""What one step does to one parameter: where its numbers lie, in which type it is computed, and its momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.train.optim.eightbit import LEAST_ENTRIES, MOMENTUM, pack, unpack

Group = dict[str, Any]


@dataclass(slots=True)
class Work:
    """One parameter that has a gradient in this step.

    Attributes:
        name: for messages.
        parameter: as the user gave it; perhaps a `DTensor`.
        value: its entries on this rank, in float32 or wider: the parameter's own memory where it has that type.
        grad: the gradient's entries on this rank, in the dtype of `value`.
        state: what the optimiser keeps for it.
    """

    name: str
    parameter: Tensor
    value: Tensor
    grad: Tensor
    state: dict[str, Any]

    def close(self) -> None:
        """Round `value` into the parameter if it is a copy."""
        held = local(self.parameter)
        if held is not self.value:
            held.copy_(self.value)


def open_works(group: Group, number: int, states: Mapping[Tensor, dict[str, Any]]) -> list[Work | None]:
    """One for each parameter of a group, None where there is no gradient.

    Raises:
        ClisonixError: a sparse gradient.
    """
    works: list[Work | None] = []
    for i, parameter in enumerate(group["params"]):
        name = name_of(group, number, i)
        grad = parameter.grad
        if grad is None:
            works.append(None)
            continue
        if grad.layout != torch.strided:
            raise ClisonixError(
                f"the gradient of {name} is {grad.layout}, and Spectral takes dense ones; make the layer without "
                "sparse=True or give that parameter to torch.optim.SparseAdam."
            )
        held = local(parameter)
        dtype = torch.promote_types(held.dtype, torch.float32)
        works.append(Work(name, parameter, held.to(dtype), local(grad).to(dtype), states[parameter]))
    return works


def name_of(group: Group, number: int, i: int) -> str:
    """The parameter's name in the model where it is known, else its place."""
    names = group.get("param_names")
    return str(names[i]) if names else f"parameter {i} of group {number}"


def is_sharded(x: Tensor) -> bool:
    """Whether `x` is a `DTensor`, told without importing what defines it."""
    return hasattr(x, "placements")


def local(x: Tensor) -> Tensor:
    """The entries on this rank, sharing memory."""
    return cast(Any, x).to_local() if is_sharded(x) else x


def zeros_for(work: Work) -> Tensor:
    """Zeros in the dtype computed in, spread over the ranks as the parameter is."""
    return torch.zeros_like(work.parameter, dtype=work.value.dtype, memory_format=torch.preserve_format)


def in_bytes(work: Work, group: Group) -> bool:
    """Whether the state of a parameter is one byte an entry."""
    return bool(group["state_bits"] == 8 and work.parameter.numel() >= LEAST_ENTRIES)


def momenta(works: list[Work], group: Group) -> list[Tensor]:
    """Advance the momentum of each parameter and return what is to be orthogonalised, on this rank.

    `buffer <- mu buffer + (1 - mu) grad`, then with Nesterov `mu buffer + (1 - mu) grad`, else the buffer.
    """
    mu, nesterov = group["momentum"], group["nesterov"]
    buffers = []
    for work in works:
        state = work.state
        if in_bytes(work, group):
            step = int(state["momentum_step"]) if "momentum_step" in state else 0
            if step == 0:
                buffer = torch.zeros_like(work.value)
            else:
                buffer = unpack(state["momentum_buffer"], state["momentum_scale"], MOMENTUM)
            buffer.lerp_(work.grad, 1 - mu)
            state["momentum_buffer"], state["momentum_scale"] = pack(buffer, step, MOMENTUM)
            state["momentum_step"] = torch.tensor(float(step + 1))
            buffers.append(buffer)
        else:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = zeros_for(work)
            buffers.append(local(state["momentum_buffer"]))
    whole = [i for i, work in enumerate(works) if not in_bytes(work, group)]
    if whole:
        torch._foreach_lerp_([buffers[i] for i in whole], [works[i].grad for i in whole], 1 - mu)
    return list(torch._foreach_lerp([work.grad for work in works], buffers, mu)) if nesterov and works else buffers


def scale_momentum(work: Work, factor: Tensor) -> None:
    """Multiply the momentum by one number."""
    held = work.state["momentum_scale"] if "momentum_scale" in work.state else work.state["momentum_buffer"]
    local(held).mul_(factor)


def step_ratio(adjust_lr: str | None, rows: int, columns: int) -> float:
    """What the learning rate is multiplied by for a matrix of that shape: see `Spectral`."""
    if adjust_lr == "original":
        return float(max(1.0, rows / columns) ** 0.5)
    if adjust_lr == "match_rms_adamw":
        return float(0.2 * max(rows, columns) ** 0.5)
    return 1.0
