"""Optimiser state in one byte an entry: blocks of 256 entries that share their largest value.

Codes are companded (equally spaced in a root of the value), since the entries of a block spread over decades;
Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (ICLR 2022), use a table of unequal levels for that.
Rounding to the nearest level would hold a slowly decaying average where it is for ever, so an entry goes up or down
with the odds that keep its mean. The draws come from a sequence that fills the unit interval evenly and depends on
the step and the place in the block only: no generator, and a resumed run draws the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
# Smaller tensors stay as they are: their state is next to nothing, and they are the sensitive ones (norms, biases).
LEAST_ENTRIES = 4096
# Additive recurrences with these two never come close to a cycle (golden ratio, plastic number).
_PER_STEP, _PER_PLACE = 0.6180339887498949, 0.7548776662466927


class Code(NamedTuple):
    """Levels of one sign, the power of them that a value is, whether there are two signs, and the least code."""

    levels: int
    power: int
    signed: bool
    least: int = 0


# What is orthogonalised must be even over the block; averages of AdamW are divided by each other and spread over
# decades. A squared gradient that is not zero never becomes zero, since a step divides by its root.
MOMENTUM = Code(127, 2, signed=True)
MEAN = Code(127, 4, signed=True)
SQUARE = Code(255, 4, signed=False, least=1)


def pack(x: Tensor, step: int, code: Code) -> tuple[Tensor, Tensor]:
    """Codes and scales of `x`.

    Args:
        x: floating point, finite; not negative for a code without sign.
        step: rounding differs from step to step, so that it averages out.
        code: how.

    Returns:
        `int8` or `uint8` of the shape of `x`, and a scale for each block of `BLOCK` entries in the dtype of `x`.
    """
    flat = F.pad(x.reshape(-1), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    size = flat.abs()
    peak = size.amax(dim=1, keepdim=True)
    root = (size / peak.clamp(min=torch.finfo(x.dtype).tiny)).sqrt_()
    root = (root if code.power == 2 else root.sqrt_()).mul_(code.levels)
    low = root.floor().clamp_(max=code.levels - 1)
    # How far the value, not its root, lies between two levels.
    share = (root**code.power - low**code.power) / ((low + 1) ** code.power - low**code.power)
    levels = low + (share > _thresholds(step, x))
    if code.least:
        levels = torch.where(size > 0, levels.clamp(min=code.least), levels)
    levels = (levels.copysign_(flat) if code.signed else levels).reshape(-1)[: x.numel()]
    return levels.to(torch.int8 if code.signed else torch.uint8).reshape(x.shape), peak.squeeze(1)


def unpack(levels: Tensor, scale: Tensor, code: Code) -> Tensor:
    """What `pack` has rounded, in the dtype of `scale`."""
    flat = F.pad(levels.reshape(-1).to(scale.dtype), (0, -levels.numel() % BLOCK)).view(-1, BLOCK)
    value = (flat / code.levels).square_()
    value = value if code.power == 2 else value.square_()
    value = value.copysign_(flat) if code.signed else value
    return (value * scale[:, None]).reshape(-1)[: levels.numel()].reshape(levels.shape)


def _thresholds(step: int, like: Tensor) -> Tensor:
    place = torch.arange(BLOCK, dtype=torch.float64, device=like.device) * _PER_PLACE
    return ((place + math.fmod(step * _PER_STEP, 1.0)) % 1.0).to(like.dtype)
