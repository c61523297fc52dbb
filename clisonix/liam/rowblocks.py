"""Products with a large batch, some rows at a time, so that what lies between the factors stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Below this many numbers nothing is worth dividing, and the test for it costs a tenth of a microsecond.
SMALL = 1 << 16
# Fewer rows than this leave matrix products waiting for memory, and packed weights are unpacked too often.
MIN_ROWS = 64
# What lies between the factors takes at most this part of input and output together ...
SHARE = 1 / 40
# ... unless that is less than this many bytes, which are not worth more steps: a GPU needs larger ones to be busy.
FREE_BYTES = {"cpu": 1 << 20}
FREE_BYTES_ELSEWHERE = 1 << 24


def at_once(x: Tensor) -> bool:
    """Whether a product with `x` is done whole, before anything about it is known."""
    # The compiler first: it would otherwise make a graph for each side of the comparison.
    return torch.compiler.is_compiling() or x.numel() <= SMALL or torch.is_grad_enabled()


def by_row_blocks(apply: Callable[[Tensor], Tensor], x: Tensor, m: int, between: int) -> Tensor:
    """`apply(x)`, in blocks of rows where gradients are off and the whole would need much more memory.

    With gradients on, autograd keeps what lies between anyway; a compiler plans memory itself.

    Args:
        apply: maps `(..., n)` to `(..., m)`, each row for itself.
        x: `(..., n)`.
        m: columns of the result.
        between: numbers that `apply` holds at once for a row, besides its input and the final output.
    """
    if at_once(x):
        return apply(x)
    n = x.shape[-1]
    count = x.numel() // n
    free = FREE_BYTES.get(x.device.type, FREE_BYTES_ELSEWHERE) // x.element_size()
    step = max(MIN_ROWS, int(max(count * (n + m) * SHARE, free)) // max(between, 1))
    if 2 * step > count:
        return apply(x)
    # A batch that cannot be seen as one list of rows would be copied whole; its first axis is divided instead.
    rows = x if x.ndim == 2 else _as_rows(x)
    if rows is None:
        rows, step = x, max(1, step * x.shape[0] // count)
    first = apply(rows[:step])
    # Made from the first part and not from x: it knows the dtype under autocast and the batch under vmap.
    out = first.new_empty(rows.shape[0], *first.shape[1:])
    out[:step] = first
    del first
    for start in range(step, rows.shape[0], step):
        out[start : start + step] = apply(rows[start : start + step])
    return out.view(*x.shape[:-1], m)


def _as_rows(x: Tensor) -> Tensor | None:
    try:
        return x.view(-1, x.shape[-1])
    except RuntimeError:
        return None
