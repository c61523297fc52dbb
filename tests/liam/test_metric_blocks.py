"""The metric of blocks is the metric of the whole matrix that has only these blocks."""

from __future__ import annotations

import pytest
import torch

from clisonix.errors import ClisonixError
from clisonix.liam.integer import Integer
from clisonix.liam.metric import Metric
from clisonix.liam.metric_blocks import BlockMetric
from clisonix.liam.packed_lowrank import output_spectrum
from clisonix.liam.rounding import rounded_integer


def pair(n: int = 40, width: int = 16) -> tuple[torch.Tensor, Metric, BlockMetric]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, n, generator=generator, dtype=torch.float64)
    count = -(-n // width)
    blocks = torch.zeros(count, width, width, dtype=torch.float64)
    for index in range(count):
        size = min(width, n - index * width)
        x = torch.randn(3 * size, size, generator=generator, dtype=torch.float64)
        blocks[index, :size, :size] = x.mT @ x
    return weight, Metric(weight, torch.block_diag(*blocks)[:n, :n]), BlockMetric(weight, blocks)


@pytest.mark.parametrize("n", [32, 40])
def test_blocks_measure_as_the_whole_matrix(n: int) -> None:
    weight, whole, blocks = pair(n)
    torch.testing.assert_close(blocks.times_inputs(weight), whole.times_inputs(weight))
    torch.testing.assert_close(blocks.turned(weight), whole.turned(weight))
    torch.testing.assert_close(blocks.rooted(weight), whole.rooted(weight))
    torch.testing.assert_close(blocks.activity, whole.activity)
    torch.testing.assert_close(output_spectrum(weight, blocks).values, output_spectrum(weight, whole).values)


def test_rounding_by_blocks_is_better_than_plain_and_as_good_as_with_the_whole_matrix() -> None:
    weight, whole, blocks = pair(40)
    plain, ours, theirs = (
        whole.norm(weight - matrix.dense().detach())
        for matrix in (
            Integer.rounded(weight, 3, 16),
            rounded_integer(weight, 3, 16, metric=blocks),
            rounded_integer(weight, 3, 16, metric=whole),
        )
    )
    assert ours < 0.9 * plain
    assert ours < 1.1 * theirs


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ClisonixError, match="give \\(ceil"):
        BlockMetric(torch.ones(3, 40), torch.zeros(2, 16, 16))
