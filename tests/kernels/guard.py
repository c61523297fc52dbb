"""Memory whose neighbours cannot be touched, and programs in another order: what the interpreter of Triton lacks.

Imported by the `interpret_*.py` scripts only, which run in processes of their own: an access outside a tensor ends
them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton.runtime.interpreter as interpreter
from torch import Tensor

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
HELD: list[mmap.mmap] = []
SIDES = ("end", "start")


def guarded(tensor: Tensor, side: str) -> Tensor:
    """A contiguous copy that ends (starts) where a page begins (ends) that may be neither read nor written."""
    view = _memory(tuple(tensor.shape), tensor.dtype, side)
    view.copy_(tensor)
    return view


def _memory(shape: tuple[int, ...], dtype: torch.dtype, side: str) -> Tensor:
    count = math.prod(shape)
    size = count * torch.empty((), dtype=dtype).element_size()
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    inner = -(-size // PAGE) * PAGE
    region = mmap.mmap(-1, inner + 2 * PAGE)
    HELD.append(region)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for page in (address, address + PAGE + inner):
        if LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE if side == "start" else PAGE + inner - size
    return torch.frombuffer(region, dtype=dtype, count=count, offset=offset).view(shape)


@contextmanager
def guarded_outputs(side: str) -> Iterator[None]:
    """Tensors that the launchers allocate are guarded and full of NaN, so that a hole in a result is seen."""
    before, empty = torch.Tensor.new_empty, torch.empty

    def new_empty(self: Tensor, *size: int, dtype: torch.dtype | None = None, **options: object) -> Tensor:
        if options:  # the interpreter's own
            return before(self, *size, dtype=dtype, **options)  # type: ignore[arg-type,no-any-return]
        return _memory(tuple(size), dtype or self.dtype, side).fill_(float("nan"))

    def plain_empty(*size: int, **options: object) -> Tensor:
        if len(size) == 1 and isinstance(size[0], tuple) and set(options) == {"dtype", "device"}:
            return _memory(tuple(size[0]), options["dtype"], side).fill_(float("nan"))  # type: ignore[arg-type]
        return empty(*size, **options)  # type: ignore[call-overload,no-any-return]

    torch.Tensor.new_empty, torch.empty = new_empty, plain_empty  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.Tensor.new_empty, torch.empty = before, empty  # type: ignore[method-assign]
        HELD.clear()


@contextmanager
def backwards() -> Iterator[None]:
    """The programs of a launch run from the last to the first."""

    def reordered(*bounds: int) -> range:
        caller = sys._getframe(1).f_code.co_name
        return range(*bounds)[::-1] if caller == "__call__" else range(*bounds)

    interpreter.range = reordered
    try:
        yield
    finally:
        del interpreter.range


def assert_close(name: str, ours: Tensor, expected: Tensor, dtype: torch.dtype, scale: Tensor | None = None) -> None:
    """`ours` within a few roundings to `dtype` of `expected`, relative to `scale` or the largest entry expected."""
    assert ours.shape == expected.shape, (name, ours.shape, expected.shape)
    if expected.numel() == 0:
        return
    assert bool(ours.isfinite().all()), f"{name}: not all of the result was written, or something else was read"
    size = expected.abs().max() if scale is None else scale
    worst = float(((ours.double() - expected).abs() / size.clamp(min=1e-30)).max())
    assert worst < 40 * torch.finfo(dtype).eps, f"{name}: off by {worst:.3g} of the largest entry"
