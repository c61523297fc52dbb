"""Which weights of a model can be compressed, and why the others cannot."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clisonix.compress.kinds import is_conv1d, why_not_layer
from clisonix.compress.layers import LiamLayer
from clisonix.compress.readers import readers
from clisonix.compress.sizes import stored_tensors
from clisonix.errors import ClisonixError, nearest

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOT_CHOSEN = "not among the chosen layers"
Names = str | Iterable[str] | None


class Place(NamedTuple):
    """Where a weight is used: the module's name ("" is the model itself) and the parameter's."""

    module: str
    parameter: str

    @property
    def name(self) -> str:
        """As in `state_dict()`."""
        return f"{self.module}.{self.parameter}" if self.module else self.parameter


@dataclass(frozen=True, eq=False)
class Site:
    """One weight of a model, and the reason why it cannot be compressed, if there is one.

    Attributes:
        name: its first name in `state_dict()`.
        module: the module that holds it under that name.
        parameter: its name there: "weight", "weight_hh_l0", "in_proj_weight".
        kind: class of the module.
        shape: `(m, n)`, outputs by inputs (rows by width for an embedding), a convolution's last axes as one; of
            what is no matrix, the shape it has.
        tensor: the parameter itself.
        flipped: whether `tensor` is the transpose, as in transformers' `Conv1D`.
        places: everywhere it is used, this name first; more than one if it is tied.
        reason: why it stays as it is, or None.
    """

    name: str
    module: nn.Module
    parameter: str
    kind: str
    shape: tuple[int, ...]
    tensor: Tensor
    flipped: bool
    places: tuple[Place, ...]
    reason: str | None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`shape` of a weight that can be compressed."""
        assert self.reason is None
        m, n = self.shape
        return m, n

    @property
    def weight(self) -> Tensor:
        """The weight as a matrix `(m, n)`, detached, sharing the model's memory."""
        flat = self.tensor.detach()
        return flat.mT if self.flipped else flat.reshape(self.matrix_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense weight."""
        return self.tensor.nbytes

    @property
    def layer_name(self) -> str:
        """The module's name."""
        return self.places[0].module


def survey(model: nn.Module, *, include: Names = None, exclude: Names = None, values: bool = True) -> list[Site]:
    """Every parameter of two or more dimensions, in the order of `state_dict()`: none is left out silently.

    Args:
        model: an ordinary model, not compressed, not wrapped by `torch.compile`.
        include: only these weights: names or patterns of weights or modules (`"encoder.*"`); a name covers
            everything inside it.
        exclude: not these, in the same way.
        values: whether weights on the meta device, which have none, must be kept.

    Raises:
        ClisonixError: not such a model, or a name that matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise ClisonixError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    if hasattr(model, "_orig_mod"):
        raise ClisonixError("the model is wrapped by torch.compile; compress it first and compile the result")
    stored_tensors(model)  # raises for lazy modules and for what no file could hold
    if any(isinstance(module, LiamLayer) for module in model.modules()):
        raise ClisonixError("the model is compressed already; give the dense model, or expand() this one")
    uses = _uses(model)
    places: dict[int, list[tuple[Place, nn.Module, Tensor]]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter, tensor in module.named_parameters(recurse=False):
            if tensor.ndim >= 2:
                places[id(tensor)].append((Place(name, parameter), module, tensor))
    outer = readers(model)
    sites = [_site(found, uses, values, outer) for found in places.values()]
    kept = _chosen(model, sites, include, exclude)
    return [site if site.reason or site.name in kept else replace(site, reason=NOT_CHOSEN) for site in sites]


def _site(
    found: list[tuple[Place, nn.Module, Tensor]], uses: Counter[int], values: bool, outer: dict[str, str]
) -> Site:
    place, module, tensor = found[0]
    names = tuple(place for place, _, _ in found)
    reason = _why_not_tensor(tensor, uses, values)
    flips, shapes = set(), set()
    for other, holder, _ in found:
        why = why_not_layer(holder, other.parameter)
        why = why or next((text for name, text in outer.items() if _inside(other.name, name)), None)
        if why is not None and len(found) > 1:
            why = f"shared with {other.name!r}: {why}"
        reason = reason or why
        flips.add(is_conv1d(holder))
        shapes.add(tuple(tensor.shape))
    if reason is None and len(flips) > 1:
        reason = f"shared by layers that read it in two directions ({', '.join(place.name for place in names)})"
    flipped = is_conv1d(module)
    shape = tuple(tensor.shape)
    if reason is None:
        shape = shape[::-1] if flipped else (shape[0], tensor[:1].numel())
    return Site(place.name, module, place.parameter, type(module).__name__, shape, tensor, flipped, names, reason)


def _why_not_tensor(tensor: Tensor, uses: Counter[int], values: bool) -> str | None:
    if type(tensor) is not nn.Parameter:
        return f"it is a {type(tensor).__name__}, not a plain parameter"
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided:
        return f"it is of {tensor.dtype}, not a dense matrix of floating-point numbers"
    if tensor.numel() == 0:
        return "it is empty"
    if tensor.device.type == "meta" and values:
        return "it is on the meta device and has no values"
    if uses[_memory(tensor)] > 1:
        return "its memory is shared with another tensor of the model"
    return None


def _chosen(model: nn.Module, sites: list[Site], include: Names, exclude: Names) -> set[str]:
    known = {name for name, _ in model.named_modules()} | {place.name for site in sites for place in site.places}
    kept = {site.name for site in sites}
    if include is not None:
        kept = _matching(sites, include, known, "include")
    return kept if exclude is None else kept - _matching(sites, exclude, known, "exclude")


def _matching(sites: list[Site], patterns: str | Iterable[str], known: set[str], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        hits = [name for name in known if fnmatchcase(name, pattern)]
        if not hits and not any(fnmatchcase(name, f"{pattern}.*") for name in known):
            hint = nearest(pattern, sorted(site.layer_name for site in sites if site.reason is None))
            raise ClisonixError(f"{what} names {pattern!r}, which is nothing in the model{hint}")
        for site in sites:
            if any(_covers(pattern, place.name) for place in site.places):
                found.add(site.name)
    return found


def _covers(pattern: str, name: str) -> bool:
    """Whether the pattern fits a weight or any module that it lies in."""
    if pattern == "":
        return True
    words = name.split(".")
    return any(fnmatchcase(".".join(words[:count]), pattern) for count in range(1, len(words) + 1))


def _inside(name: str, outer: str) -> bool:
    return outer == "" or name.startswith(f"{outer}.")


def _uses(model: nn.Module) -> Counter[int]:
    """How many different tensors lie in each piece of memory: views of one another, or a buffer and a parameter."""
    tensors: Iterator[Tensor] = itertools.chain(model.parameters(), model.buffers())
    return Counter(_memory(tensor) for tensor in tensors)


def _memory(tensor: Tensor) -> int:
    if tensor.layout != torch.strided or type(tensor) not in (nn.Parameter, Tensor):
        return -id(tensor)
    return tensor.untyped_storage().data_ptr() or -id(tensor)
