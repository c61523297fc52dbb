"""What a form of a weight would cost in error, told without building it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.compress.weighing import Weighing
from clisonix.liam.binary import Binary
from clisonix.liam.footprint import packed_lowrank_nbytes
from clisonix.liam.integer import Integer, Ternary

# Rows of a weight on which rounding is tried.
SAMPLED_ROWS = 64
_LEAST_ROWS, _SAMPLED_ENTRIES = 4, 1 << 18
# Part of the kept energy that rounding both factors of a low rank costs, by bits: measured on matrices of normal
# entries and of decaying spectra. It is only used to choose; what was chosen is measured.
FACTOR_NOISE = {2: 0.08, 3: 0.02, 4: 5e-3, 5: 1.3e-3, 6: 3e-4, 7: 1e-4, 8: 2.5e-5}


@dataclass(frozen=True)
class Sample:
    """Some rows of a weight, spread evenly, with what they weigh.

    Args:
        rows: `(k, n)`.
        weights: of the rows `(k,)`.
        feedback: `(n,)`, what a squared error in each column costs once later columns have made up for it.
        size: weighted square of the rows.
    """

    rows: Tensor
    weights: Tensor
    feedback: Tensor
    diagonal: Tensor
    size: float

    def fed_back(self, rounded: Tensor) -> float:
        """Relative squared error of rounding with error feedback, from that of plain rounding.

        Each column's error then counts by the conditional variance of its input, given those still to be rounded
        (Chee et al., "QuIP", NeurIPS 2023, theorem 1).
        """
        squares = (self.rows - rounded).square()
        return self._relative(squares @ self.feedback)

    def dropped(self, density: float) -> float:
        """Relative squared error of keeping only the entries that matter most, inputs taken as uncorrelated."""
        scores = self.rows.square() * self.diagonal
        kept = max(1, round(density * scores.numel()))
        threshold = scores.flatten().topk(kept).values[-1]
        return self._relative(torch.where(scores < threshold, scores, 0.0).sum(1))

    def _relative(self, squares: Tensor) -> float:
        return float(squares @ self.weights) / self.size if self.size > 0 else 0.0


def sample(weight: Tensor, weighing: Weighing, count: int = SAMPLED_ROWS) -> Sample:
    """`count` rows of `weight (m, n)`, those in the middle of as many equal parts."""
    m, n = weight.shape
    # Of a wide weight a few rows have entries enough.
    count = min(count, m, max(_LEAST_ROWS, _SAMPLED_ENTRIES // max(n, 1)))
    places = torch.div((2 * torch.arange(count) + 1) * m, 2 * max(count, 1), rounding_mode="floor").to(weight.device)
    metric = weighing.metric
    rows = weight[places].to(metric.dtype)
    weights = metric.row_weights[places, 0]
    return Sample(rows, weights, metric.remaining, metric.activity, float(weighing.squares(rows, places).sum()))


def integer_errors(found: Sample, groups: list[int], bits: range = range(2, 9)) -> dict[tuple[int, int], float]:
    """Relative squared errors by bits and group."""
    return {
        (b, group): found.fed_back(Integer.rounded(found.rows, b, group).dense().detach())
        for group in groups
        for b in bits
    }


def ternary_error(found: Sample) -> float:
    """Relative squared error of three levels."""
    return found.fed_back(Ternary.nearest(found.rows).dense().detach())


def binary_error(found: Sample) -> float:
    """Relative squared error of two levels."""
    return found.fed_back(Binary.nearest(found.rows).dense().detach())


def tails(values: Tensor) -> list[float]:
    """Relative squared error at rank 0, 1, ...; all 0 when there is nothing to lose."""
    energy = values.double().square().cpu()
    # Summed from the smallest up, so that the tail of a steep spectrum is not rounded away.
    sums = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    total = float(sums[0])
    return (sums / total).tolist() if total > 0 else [0.0] * len(sums)


def packed_error(tail: float, bits: int) -> float:
    """Relative squared error of a low rank with packed factors."""
    return tail + FACTOR_NOISE[bits] * (1 - tail)


def packed_ranks(shape: tuple[int, int], bits: int, itemsize: int, most: int) -> list[int]:
    """Ranks worth looking at: whole bytes of the left factor's rows, and within `most` bytes."""
    full = min(shape)
    ranks = {*range(8, full + 1, 8), min(full, 4)}
    return sorted(rank for rank in ranks if packed_lowrank_nbytes(shape, rank, bits, itemsize) < most)


def between(points: dict[float, float], rate: float, slope: float = 1.15) -> float:
    """The error at a rate (bits) between or beyond measured ones: its logarithm is nearly straight in the rate."""
    rates = sorted(points)
    if rate in points:
        return points[rate]
    below = [r for r in rates if r < rate]
    above = [r for r in rates if r > rate]
    if below and above:
        low, high = below[-1], above[0]
        share = (rate - low) / (high - low)
        start, end = (math.log(max(points[r], 1e-300)) for r in (low, high))
        return math.exp(start + share * (end - start))
    near = below[-1] if below else above[0]
    return min(1.0, points[near] * 2 ** (-slope * (rate - near)))
