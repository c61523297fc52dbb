"""Which rows or columns: every way to name them, brought to a range or a vector of places."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError

Key = slice | SupportsIndex | Tensor | list[int] | list[bool] | range | np.ndarray[Any, Any]
Selection = range | Tensor


def select(key: Key, size: int, device: torch.device, side: str) -> Selection:
    """The places that `key` names on a side with `size` places: a rising range, or int64 or int32 places.

    Args:
        key: a slice, a whole number (that one place), or a vector of whole numbers or booleans.
        size: of the side.
        device: where a vector of places is to be.
        side: "rows" or "columns", for the message.

    Raises:
        ClisonixError: `key` is something else, or names a place that does not exist.
    """
    if isinstance(key, slice):
        try:
            places = range(size)[key]
        except (TypeError, ValueError) as error:
            raise ClisonixError(f"{side} {key} cannot be taken: {error}; give whole numbers.") from None
        return places if places.step > 0 else torch.tensor(list(places), dtype=torch.int64, device=device)
    if isinstance(key, Tensor) and key.ndim > 0:
        return _vector(key, size, device, side)
    if isinstance(key, list | range | np.ndarray) and np.ndim(key) > 0:
        return _vector(torch.as_tensor(np.asarray(key, dtype=None if len(key) else np.int64)), size, device, side)
    try:
        place = operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        raise ClisonixError(
            f"{side} cannot be taken by a {type(key).__name__}; give a slice, a whole number or a vector of them."
        ) from None
    if not -size <= place < size:
        raise ClisonixError(f"{side} has no place {place}: there are {size}.")
    return range(place % size, place % size + 1)


def narrow(outer: Selection, inner: Selection) -> Selection:
    """The places that `inner` takes from those of `outer`."""
    if isinstance(outer, range):
        if isinstance(inner, range):
            return outer[inner.start : inner.stop : inner.step]
        return inner * outer.step + outer.start
    return pick(outer, inner, 0)


def shares(selection: range, sizes: Sequence[int]) -> list[range]:
    """What `selection` takes of each of several sides in a row, counted from where that side begins."""
    found, offset = [], 0
    for size in sizes:
        # The first selected places at or behind the two ends of this side.
        first, last = (max(0, -((selection.start - end) // selection.step)) for end in (offset, offset + size))
        own = selection[first:last]
        found.append(range(own.start - offset, own.stop - offset, own.step) if own else range(0))
        offset += size
    return found


def is_all(selection: Selection, size: int) -> bool:
    """Whether `selection` takes every place in order, as far as a range can tell."""
    return isinstance(selection, range) and selection == range(size)


def pick(x: Tensor, selection: Selection, dim: int) -> Tensor:
    """The places of `x` along `dim` that are selected; a range gives a view."""
    if isinstance(selection, Tensor):
        return x.index_select(dim, selection)
    if selection == range(x.shape[dim]):
        return x
    if selection.step == 1:
        return x.narrow(dim, selection.start, len(selection))
    index: list[slice] = [slice(None)] * x.ndim
    index[dim] = slice(selection.start, selection.stop, selection.step)
    return x[tuple(index)]


def put(x: Tensor, selection: Selection, size: int) -> Tensor:
    """Zeros with the last axis of `x` added at the selected places: `(..., len)` to `(..., size)`.

    The transpose of `pick`, so a place named twice gets both.
    """
    if isinstance(selection, Tensor):
        return x.new_zeros(*x.shape[:-1], size).index_add(-1, selection, x)
    if selection == range(size):
        return x
    if selection.step == 1 or len(selection) == 0:
        start = selection.start if len(selection) else 0
        return F.pad(x, (start, size - start - len(selection)))
    zeros = x.new_zeros(*x.shape[:-1], size)
    return zeros.slice_scatter(x, -1, selection.start, selection.stop, selection.step)


def _vector(key: Tensor, size: int, device: torch.device, side: str) -> Tensor:
    if key.dtype == torch.bool and key.shape == (size,):
        return key.nonzero()[:, 0].to(device)
    if key.ndim != 1 or key.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise ClisonixError(
            f"{side} cannot be taken by a {key.dtype} tensor of shape {tuple(key.shape)}; give a vector of whole "
            f"numbers, or of {size} booleans."
        )
    places = key if key.dtype in (torch.int32, torch.int64) else key.long()
    if places.numel() and not places.is_meta:
        low, high = int(places.min()), int(places.max())
        if low < -size or high >= size:
            raise ClisonixError(f"{side} has no place {low if low < -size else high}: there are {size}.")
        if low < 0:
            places = torch.where(places < 0, places + size, places)
    return places.detach().to(device).contiguous()
