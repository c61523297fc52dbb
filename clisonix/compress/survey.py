"""Which layers of a model can be compressed, and why the others cannot."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clisonix.compress.layers import Conv, LiamConv, LiamLinear
from clisonix.compress.sizes import stored_tensors
from clisonix.errors import ClisonixError, nearest

PLAIN_TYPES: tuple[type[nn.Linear | Conv], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUSED_TYPES = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Names = str | Iterable[str] | None


@dataclass(frozen=True)
class Site:
    """A module with a weight matrix, and the reason why it cannot be compressed, if there is one."""

    name: str
    module: nn.Module
    kind: str
    shape: tuple[int, ...]
    nbytes: int
    reason: str | None

    @property
    def layer(self) -> nn.Linear | Conv:
        """The module, known to be one of `PLAIN_TYPES`."""
        assert self.reason is None
        assert isinstance(self.module, PLAIN_TYPES)
        return self.module


def survey(model: nn.Module, *, include: Names = None, exclude: Names = None) -> list[Site]:
    """Every module that holds a weight matrix, in the order of `named_modules()`.

    Args:
        model: an ordinary model, not compressed, not wrapped by `torch.compile`.
        include: only these layers: names or patterns (`"encoder.*"`); a name covers everything inside it.
        exclude: not these layers, in the same way.

    Raises:
        ClisonixError: not such a model, or a name that matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise ClisonixError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    if hasattr(model, "_orig_mod"):
        raise ClisonixError("the model is wrapped by torch.compile; compress it first and compile the result")
    stored_tensors(model)  # raises for lazy modules and for what no file could hold
    modules = dict(model.named_modules())
    if any(isinstance(module, LiamLinear | LiamConv) for module in modules.values()):
        raise ClisonixError("the model is compressed already; give the dense model, or expand() this one")
    chosen = _chosen(modules, include, exclude)
    fused = [name for name, module in modules.items() if isinstance(module, _FUSED_TYPES)]
    uses = _uses(model)
    sites = []
    for name, module in modules.items():
        matrices = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if not isinstance(module, PLAIN_TYPES) and (not matrices or ".parametrizations." in f".{name}."):
            continue
        reason = _why_not(module, uses)
        if reason is None and any(_inside(name, outer) for outer in fused):
            reason = "inside an attention block of torch.nn, whose fused path reads the weight itself"
        if reason is None and name not in chosen:
            reason = "not among the chosen layers"
        shape = tuple(matrices[0].shape) if len(matrices) == 1 else ()
        sites.append(Site(name, module, type(module).__name__, shape, sum(p.nbytes for p in matrices), reason))
    return sites


def _why_not(module: nn.Module, uses: Counter[int]) -> str | None:
    if not isinstance(module, PLAIN_TYPES):
        return "only Linear and Conv1d/2d/3d layers are compressed in this version"
    if parametrize.is_parametrized(module):
        return "parametrised: its weight is computed from other tensors"
    if type(module) not in PLAIN_TYPES:
        return "a subclass, whose own behaviour a factorised layer would lose"
    weight = module._parameters.get("weight")
    if weight is None or type(weight) is not nn.Parameter:
        return "its weight is not a plain parameter"
    if weight.dtype not in _FLOATS or weight.layout != torch.strided:
        return f"its weight is {weight.dtype}, not a dense matrix of floating-point numbers"
    if weight.numel() == 0:
        return "its weight is empty"
    if weight.device.type == "meta":
        return "its weight is on the meta device and has no values"
    if uses[_key(weight)] > 1:
        return "its weight is shared with another place in the model"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups != 1:
        return f"a grouped convolution (groups={module.groups})"
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    if any(hooks) or module._backward_pre_hooks or "forward" in vars(module):
        return "it has hooks or a patched forward, which a new layer would lose"
    return None


def _chosen(modules: dict[str, nn.Module], include: Names, exclude: Names) -> set[str]:
    layers = [name for name, module in modules.items() if isinstance(module, PLAIN_TYPES)]
    kept = set(layers) if include is None else _matching(layers, include, modules, "include")
    return kept if exclude is None else kept - _matching(layers, exclude, modules, "exclude")


def _matching(layers: list[str], patterns: str | Iterable[str], modules: dict[str, nn.Module], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        hits = {
            name
            for name in modules
            if fnmatchcase(name, pattern) or _inside(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        }
        if not hits:
            raise ClisonixError(f"{what} names {pattern!r}, which is nothing in the model{nearest(pattern, layers)}")
        found |= hits.intersection(layers)
    return found


def _inside(name: str, outer: str) -> bool:
    return outer == "" or name == outer or name.startswith(f"{outer}.")


def _uses(model: nn.Module) -> Counter[int]:
    """How many names lead to each piece of memory: the same parameter, or two that share a storage."""
    tensors: Iterator[tuple[str, Tensor]] = itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    return Counter(_key(tensor) for _, tensor in tensors)


def _key(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        return -id(tensor)
    return tensor.untyped_storage().data_ptr() or -id(tensor)
