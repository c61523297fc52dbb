"""Rounding a weight to a few levels so that the outputs, rather than the entries, change least."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import pack_signs, unpack_signs
from clisonix.kernels.integer import pack_codes, unpack_codes
from clisonix.liam.binary import Binary
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.metric import Metric
from clisonix.liam.metric_blocks import BlockMetric

# Columns handled one by one between two large products.
BLOCK = 64
# Times that every scale and level is set anew.
SWEEPS = 3
# Scales a little wider than the best for plain rounding leave room for what is fed back.
WIDTHS = (1.0, 1.12)
CLIPS = 26


class Levels(NamedTuple):
    """`number` levels from `lowest`, `step` apart."""

    lowest: int
    step: int
    number: int

    def nearest(self, x: Tensor) -> Tensor:
        """The level closest to each entry."""
        places = ((x - self.lowest) / self.step).round_().clamp_(0, self.number - 1)
        return places.mul_(self.step).add_(self.lowest)


@torch.no_grad()
def rounded_integer(
    weight: Tensor, bits: int, group: int = 64, *, metric: Metric, dtype: torch.dtype | None = None
) -> Integer:
    """`weight` as an `Integer` that is never further from it in `metric` than `Integer.rounded`.

    Columns are rounded one by one, each making up for what the ones before it got wrong (Frantar et al., "GPTQ",
    ICLR 2023; Chee et al., "QuIP", NeurIPS 2023, section 3), the most active first but with scales fixed
    before, so that every entry stays in its place. From there the scale of each group and the level of each
    entry are set to their best value given all others, over and over; no step of that can raise the error.

    Args:
        weight: `(m, n)`, finite floating point.
        bits: 2 to 8.
        group: columns that share a scale; the last group may be shorter.
        metric: of the weight; its output weights change nothing, since rows do not meet.
        dtype: of the scales that are stored; that of `weight` by default.
    """
    plain = Integer.rounded(weight, bits, group).to(dtype or weight.dtype)
    if metric.inputs is None or 0 in weight.shape:
        return plain
    if isinstance(metric, BlockMetric):
        return _block_by_block(weight, plain, bits, group, metric)
    low = -(2 ** (bits - 1))
    levels = unpack_codes(plain.planes, plain.columns).to(metric.dtype) + low
    levels, scales = _round(weight, levels, plain.scales, Levels(low, 1, 2**bits), group, metric)
    return Integer(pack_codes((levels - low).to(torch.uint8), bits), scales, weight.shape[1], group)


@torch.no_grad()
def rounded_ternary(weight: Tensor, *, metric: Metric, dtype: torch.dtype | None = None) -> Ternary:
    """`weight` as a `Ternary` never further from it in `metric` than `Ternary.nearest`; see `rounded_integer`."""
    plain = Ternary.nearest(weight).to(dtype or weight.dtype)
    if metric.inputs is None or isinstance(metric, BlockMetric) or 0 in weight.shape:
        return plain
    levels = unpack_codes(plain.planes, plain.columns).to(metric.dtype) - 1
    levels, scales = _round(weight, levels, plain.scales, Levels(-1, 1, 3), plain.group, metric)
    return Ternary(pack_codes((levels + 1).to(torch.uint8), 2), scales, weight.shape[1])


@torch.no_grad()
def rounded_binary(weight: Tensor, *, metric: Metric, dtype: torch.dtype | None = None) -> Binary:
    """`weight` as a `Binary` never further from it in `metric` than `Binary.nearest`; see `rounded_integer`."""
    plain = Binary.nearest(weight).to(dtype or weight.dtype)
    if metric.inputs is None or isinstance(metric, BlockMetric) or 0 in weight.shape:
        return plain
    levels, n = unpack_signs(plain.packed, plain.columns, metric.dtype), weight.shape[1]
    levels, scales = _round(weight, levels, plain.scales[:, None], Levels(-1, 2, 2), n, metric)
    return Binary(pack_signs(levels > 0), scales[:, 0], n)


def _block_by_block(weight: Tensor, plain: Integer, bits: int, group: int, metric: BlockMetric) -> Integer:
    """Columns of different blocks do not meet, unless one scale serves both: then rounding stays plain."""
    width = metric.width
    if width % group or width % 8:
        return plain
    parts = [
        rounded_integer(part.contiguous(), bits, min(group, part.shape[1]), metric=metric.block(index),
                        dtype=plain.scales.dtype)
        for index, part in enumerate(torch.split(weight, width, dim=1))
    ]  # fmt: skip
    planes, scales = torch.cat([part.planes for part in parts], 2), torch.cat([part.scales for part in parts], 1)
    return Integer(planes, scales.detach(), weight.shape[1], group)


def _round(
    weight: Tensor, plain: Tensor, plain_scales: Tensor, grid: Levels, group: int, metric: Metric
) -> tuple[Tensor, Tensor]:
    """Levels `(m, n)` and scales `(m, groups)`: for each row the better of ours and the plain ones."""
    # Rows and columns are exchanged, so that what happens to one column happens to adjacent numbers.
    size = weight.abs().max().to(metric.dtype).clamp(min=torch.finfo(metric.dtype).tiny)
    w = (weight.to(metric.dtype) / size).mT.contiguous()
    levels, scales = _start(w, grid, group, metric)
    for _ in range(SWEEPS):
        _descend(w, levels, scales, grid, group, metric.damped)
    stored = (scales * size).to(plain_scales.dtype)
    if not bool(stored.isfinite().all()):
        raise ClisonixError(
            f"The scales of a weight as large as {float(size):.3g} leave the range of {stored.dtype}; give a wider "
            "dtype."
        )
    # The levels can still make up for what storing the scales rounds away.
    scales = stored.to(metric.dtype) / size
    _descend(w, levels, scales, grid, group, metric.damped, fixed=True)
    ours = metric.square((w - levels * _spread(scales, group, len(w))).mT)
    plain_steps = _spread(plain_scales.to(metric.dtype).mT / size, group, len(w))
    better = (ours <= metric.square((w - plain.mT * plain_steps).mT))[:, None]
    return torch.where(better, levels.mT, plain), torch.where(better, stored.mT, plain_scales)


def _spread(scales: Tensor, group: int, n: int) -> Tensor:
    """One scale for each column `(n, m)` from one for each group `(groups, m)`."""
    return scales.repeat_interleave(group, dim=0)[:n]


def _start(w: Tensor, grid: Levels, group: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Levels `(n, m)` and scales `(groups, m)`: for each row the best of several sets of scales, fed back."""
    factor, order = metric.feedback
    # Which columns deserve a good scale: all alike, those that no later column can make up for, or the most active.
    # None of the three is best for every row, nor is one width.
    kinds = (torch.ones_like(w[:, 0]), factor.diagonal()[order.argsort()].square(), metric.damped.diagonal())
    scales = torch.cat([_scales(w, kind, grid, group) * width for kind in kinds for width in WIDTHS], dim=1)
    starts, m = len(kinds) * len(WIDTHS), w.shape[1]
    levels, errors = _feed_back(w.repeat(1, starts), scales, grid, group, factor, order)
    chosen = errors.view(starts, m).argmin(0) * m + torch.arange(m, device=w.device)
    return levels[:, chosen], scales[:, chosen]


def _scales(w: Tensor, importance: Tensor, grid: Levels, group: int) -> Tensor:
    """For each group and row the scale, of several, with the least squared error weighted by `importance (n,)`."""
    n, m = w.shape
    groups = F.pad(w, (0, 0, 0, -n % group)).view(-(-n // group), group, m)
    weights = F.pad(importance, (0, -n % group)).view(-1, group, 1)
    reach = groups.abs().amax(1, keepdim=True) / -grid.lowest
    reach = torch.where(reach == 0, 1.0, reach)
    best, error = torch.ones_like(reach), torch.full_like(reach, torch.inf)
    for clip in torch.linspace(0.1 if grid.number < 8 else 0.4, 1.0, CLIPS).tolist():
        levels = grid.nearest(groups / (reach * clip))
        used = (weights * levels.square()).sum(1, keepdim=True)
        fitted = (weights * groups * levels).sum(1, keepdim=True) / torch.where(used == 0, 1.0, used)
        new = (weights * (groups - fitted * levels).square()).sum(1, keepdim=True)
        best, error = torch.where(new < error, fitted, best), torch.minimum(new, error)
    return best[:, 0]


def _feed_back(
    w: Tensor, scales: Tensor, grid: Levels, group: int, factor: Tensor, order: Tensor
) -> tuple[Tensor, Tensor]:
    """Levels `(n, m)`, a column rounded after adding what those before it got wrong, and errors `(m,)`."""
    n = len(w)
    levels, deviations, errors = torch.empty_like(w), torch.empty_like(w), torch.zeros_like(w[0])
    steps, columns = torch.where(scales == 0, 1.0, scales), order.tolist()
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        owed = factor[:start, start:stop].mT @ deviations[:start]
        inside = factor[start:stop, start:stop]
        for i, column in enumerate(columns[start:stop]):
            aim = w[column] + owed[i] / inside[i, i]
            levels[column] = grid.nearest(aim / steps[column // group])
            got = levels[column] * scales[column // group]
            deviations[start + i] = w[column] - got
            owed[i + 1 :].addr_(inside[i, i + 1 :], deviations[start + i])
            errors += ((aim - got) * inside[i, i]).square()
    return levels, errors


def _descend(
    w: Tensor, levels: Tensor, scales: Tensor, grid: Levels, group: int, moments: Tensor, fixed: bool = False
) -> None:
    """Set each of `scales (groups, m)`, unless `fixed`, and of `levels (n, m)` in place to its best value in turn."""
    n = len(w)
    deviation = w - levels * _spread(scales, group, n)
    for index, first in enumerate(range(0, n, group)):
        last = min(first + group, n)
        held, own = levels[first:last], moments[first:last, first:last]
        slope = moments[first:last] @ deviation
        if not fixed:
            turned = own @ held
            curve = (turned * held).sum(0)
            shift = torch.where(curve > 0, (slope * held).sum(0) / torch.where(curve > 0, curve, 1.0), 0.0)
            scales[index] += shift
            deviation[first:last] -= shift * held
            slope -= shift * turned
        used = scales[index] != 0
        step = torch.where(used, scales[index], 1.0)
        for start in range(0, last - first, BLOCK):
            stop = min(start + BLOCK, last - first)
            before = held[start:stop].clone()
            for i in range(start, stop):
                new = torch.where(used, grid.nearest(held[i] + slope[i] / (own[i, i] * step)), held[i])
                change = (new - held[i]) * step
                held[i] = new
                slope[i + 1 : stop].addr_(own[i, i + 1 : stop], change, alpha=-1)
            moved = (held[start:stop] - before) * step
            deviation[first + start : first + stop] -= moved
            slope[stop:] -= own[stop:, start:stop] @ moved
