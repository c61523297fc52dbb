"""Which signs of a factor to flip, the other factor and all sizes given."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows whose signs are chosen one after another between two large products.
BLOCK = 32


def flip_signs(signs: Tensor, gram: Tensor, columns: Tensor | None, target: Tensor) -> None:
    """Lower `tr(G X C Xᵀ) − 2 tr(Xᵀ R)` by flipping signs of `X`, one row after another, in place.

    In each row those signs flip that lower the value whatever the other flips of that row do, or else the
    best single one, so that the value never rises.

    Args:
        signs: `X (r, n)` of ±1.
        gram: `G (r, r)`, symmetric, positive semi-definite.
        columns: `C (n, n)`, likewise; None for the identity.
        target: `R (r, n)`.
    """
    turned = signs.clone() if columns is None else signs @ columns
    curvature = torch.ones_like(signs[0]) if columns is None else columns.diagonal()
    for start in range(0, len(signs), BLOCK):
        rows = slice(start, min(start + BLOCK, len(signs)))
        slopes, block = gram[rows] @ turned - target[rows], gram[rows, rows]
        for i, k in enumerate(range(rows.start, rows.stop)):
            # A quarter of what each flip gains alone. Rounding must not make a sign flip back and forth.
            gains = signs[k] * slopes[i] - block[i, i] * curvature
            found = (gains > 1e-6 * gains.abs().mean()).nonzero()[:, 0]
            if not len(found):
                continue
            own = signs[k].index_select(0, found)
            if columns is None:
                moved = torch.zeros_like(gains).index_copy_(0, found, -2 * own)
                signs[k] += moved
            else:
                near = columns.index_select(0, found)
                change = -2 * own * _together(gains[found], own, block[i, i] * near.index_select(1, found))
                signs[k].index_add_(0, found, change)
                moved = change @ near
            turned[k] += moved
            slopes.addr_(block[:, i], moved)


def _together(gains: Tensor, signs: Tensor, curvature: Tensor) -> Tensor:
    """1 for the flips to make together and 0 for the others, of those that each have a gain `(k,)`."""
    losses = (curvature * signs).mul_(signs[:, None]).fill_diagonal_(0).clamp_(min=0).sum(1)
    safe = gains > losses
    if not bool(safe.any()):
        safe[gains.argmax()] = True
    return safe.to(gains.dtype)
