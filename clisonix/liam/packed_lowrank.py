"""A weight of low rank whose factors take a few bits an entry."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam import exact
from clisonix.liam.exact import Spectrum
from clisonix.liam.footprint import packed_lowrank_nbytes, rank_for
from clisonix.liam.lowrank import LowRank
from clisonix.liam.metric import Metric, entries, solve_gram
from clisonix.liam.rounding import rounded_integer

# Times that both factors are rounded, each made up for by the other.
ROUNDS = 2


@torch.no_grad()
def packed_lowrank(
    weight: Tensor,
    rank: int | None = None,
    bits: float | None = None,
    *,
    factor_bits: int = 4,
    moments: Tensor | None = None,
    output_weights: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> LowRank:
    """`left @ right` near `weight`, both factors `Integer` with one scale for each row.

    Args:
        weight: `(m, n)`, finite floating point.
        rank: inner size; at most `min(m, n)` is kept. Give exactly one of `rank` and `bits`.
        bits: for each entry of `weight`, everything counted; the largest rank that fits is taken.
        factor_bits: 2 to 8, of each entry of the factors. Fewer leave room for a higher rank: 3 or 4 is mostly best.
        moments: `(n, n)`, second moment of the inputs; None takes every direction as equally likely.
        output_weights: `(m,)`, how much the squared error of each output counts; None takes all alike.
        dtype: of the scales; that of `weight` by default.

    Returns:
        A `LowRank` on the device of `weight`, detached from it.

    Raises:
        ClisonixError: neither or both of `rank` and `bits`, one out of range, fewer bits than rank 1 takes, or
            shapes that do not fit.

    The start is the best approximation in the weighted norm (Wang et al., "SVD-LLM", ICLR 2025), turned by a
    random rotation so that all columns are alike in size. Then in turn one factor is fitted to the other,
    as that was rounded, and is rounded itself, feeding back what its columns get wrong.
    """
    metric = Metric(weight, moments, output_weights)
    if isinstance(factor_bits, bool) or factor_bits not in range(2, 9):
        raise ClisonixError(f"factor_bits={factor_bits!r} is no format; give a whole number from 2 to 8.")
    itemsize = (dtype or weight.dtype).itemsize
    fitting = rank_for(
        rank,
        bits,
        metric.shape,
        lambda r: packed_lowrank_nbytes(metric.shape, r, factor_bits, itemsize),
        highest=min(metric.shape),
    )
    return fit_packed_lowrank(weight, fitting, factor_bits, metric, dtype)


@torch.no_grad()
def fit_packed_lowrank(
    weight: Tensor,
    rank: int,
    factor_bits: int,
    metric: Metric,
    dtype: torch.dtype | None = None,
    spectrum: Spectrum | None = None,
) -> LowRank:
    """`packed_lowrank` of a given rank in a given metric, whose `output_spectrum` may be at hand."""
    w, kept = weight.to(metric.dtype), dtype or weight.dtype
    seen, outputs = metric.times_inputs(w), metric.row_weights
    left = best_left(spectrum or output_spectrum(weight, metric), rank, metric)
    noise = torch.randn(rank, rank, generator=torch.Generator().manual_seed(0), dtype=w.dtype).to(w.device)
    left = left @ torch.linalg.qr(noise).Q
    best, best_error = None, float("inf")
    for _ in range(ROUNDS):
        right = best_right(left, w, outputs)
        packed_right = rounded_integer(right, factor_bits, w.shape[1], metric=metric.for_rows(rank), dtype=kept)
        right = entries(packed_right, metric.dtype)
        gram = metric.times_inputs(right) @ right.mT
        left = solve_gram(gram, right @ seen.mT).mT
        packed_left = rounded_integer(left, factor_bits, rank, metric=Metric(left, gram), dtype=kept)
        left = entries(packed_left, metric.dtype)
        error = metric.norm(w - left @ right)
        if best is None or error < best_error:
            best, best_error = LowRank(packed_left, packed_right), error
    assert best is not None
    return best


def output_spectrum(weight: Tensor, metric: Metric) -> Spectrum:
    """The singular values and vectors of the weighted outputs: they tell the best approximation of every rank."""
    w = metric.row_weights.sqrt() * weight.to(metric.dtype)
    return exact.spectrum(metric.rooted(w), squared=w.dtype != torch.float64)


def best_left(spectrum: Spectrum, rank: int, metric: Metric) -> Tensor:
    """The left factor `(m, rank)` of the best approximation, its columns as long as the roots of the values."""
    return spectrum.factors(rank)[0] / metric.row_weights.sqrt()


def best_right(left: Tensor, w: Tensor, outputs: Tensor) -> Tensor:
    """The right factor `(rank, n)` for which `left @ right` is closest to `w`, whatever the inputs."""
    weighted = outputs * left
    return solve_gram(left.mT @ weighted, weighted.mT @ w)
