"""Modules that read the weights of layers inside them past these layers' own forward."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

from clisonix.compress.kinds import kind_of, why_not_layer

_LOADS = ("LOAD_ATTR", "LOAD_METHOD")


def readers(model: nn.Module) -> dict[str, str]:
    """Names of modules in which every weight must stay as it is, with the reason."""
    return _attentions(model) | _only_read(model)


def _attentions(model: nn.Module) -> dict[str, str]:
    """Attentions and encoders of torch that hold what keeps them from being replaced."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        attentions = [part for part in module.modules() if isinstance(part, nn.MultiheadAttention)]
        why = next((why for part in attentions if (why := why_not_layer(part, "in_proj_weight"))), None)
        if why is not None:
            found[name] = f"inside an attention block that reads it itself and must stay as it is ({why})"
    return found


def _only_read(model: nn.Module) -> dict[str, str]:
    """Layers of whose parent no method does anything but read their tensors.

    What reads a weight does so as a tensor: it merges it with another, or hands it to a kernel. Calibration would
    find such a layer to be never called, but there need not be any.
    """
    # One layer may have several parents, only one of which reads it.
    used: set[int] = set()
    read: dict[int, tuple[str, str]] = {}
    for name, module in model.named_modules():
        own = type(module).__module__.split(".")[0] != "torch"
        for child_name, child in module._modules.items():
            if child is None or kind_of(child) is None:
                continue
            tensors = {
                parameter: tensor is not None and tensor.ndim >= 2 for parameter, tensor in child._parameters.items()
            }
            uses = [tensors.get(after) for after in _uses(type(module), child_name)] if own else []
            if True in uses and None not in uses:
                read[id(child)] = (f"{name}.{child_name}" if name else child_name, type(module).__name__)
            else:
                used.add(id(child))
    return {
        name: f"{reader} reads its weight itself and never calls it"
        for identity, (name, reader) in read.items()
        if identity not in used
    }


def _uses(kind: type[nn.Module], attribute: str) -> Iterator[str]:
    """What methods of `kind` do with `attribute`: the name that they take of it, or "" for anything else."""
    for base in kind.__mro__:
        if base.__module__.split(".")[0] == "torch":
            continue
        for held in vars(base).values():
            function = inspect.unwrap(held) if callable(held) else None
            if isinstance(function, FunctionType):
                # What a constructor reads, it reads to set it up.
                building = function.__name__ == "__init__"
                yield from (use for use in _uses_in(function.__code__, attribute) if not (building and use))


def _uses_in(code: CodeType, attribute: str) -> Iterator[str]:
    if attribute in code.co_names:
        before = None
        for step in dis.get_instructions(code):
            if step.opname == "EXTENDED_ARG":
                continue
            if before is not None:
                yield str(step.argval) if step.opname in _LOADS else ""
            before = step if step.opname in _LOADS and step.argval == attribute else None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _uses_in(inner, attribute)
