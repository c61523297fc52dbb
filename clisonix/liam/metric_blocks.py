"""The metric of a wide weight: second moments of neighbouring inputs only, block by block."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import check_finite
from clisonix.liam.metric import RIDGE, Metric

# Blocks whose factors are computed in double precision at once.
_TOGETHER = 64


class BlockMetric(Metric):
    """A `Metric` whose second moment is zero but for square blocks along its diagonal.

    What all products of `n` inputs would take, `n²` numbers, is out of proportion where a weight has few rows; the
    inputs that are most alike, such as those under one kernel, are neighbours.

    Args:
        weight: as of `Metric`.
        blocks: `(k, b, b)` with `k = ceil(n / b)`; where the last block reaches over the edge it is zero.
        output_weights: as of `Metric`.

    Attributes:
        inputs: `(k, b, b)` with a mean diagonal of 1.

    Raises:
        ClisonixError: blocks that do not fit, or that are no second moments.
    """

    def __init__(self, weight: Tensor, blocks: Tensor, output_weights: Tensor | None = None) -> None:
        super().__init__(weight, None, output_weights)
        n, width = self.shape[1], blocks.shape[-1]
        if blocks.ndim != 3 or width < 1 or blocks.shape != (-(-n // width), width, width):
            raise ClisonixError(f"the blocks are {tuple(blocks.shape)} for {n} columns; give (ceil(n / b), b, b)")
        wide = check_finite(blocks.to(self.device), "blocks").to(self.dtype)
        mean = wide.diagonal(dim1=1, dim2=2).sum() / max(n, 1)
        self.width = width
        self.inputs = wide / mean if bool(mean > 0) else None

    def times_inputs(self, x: Tensor) -> Tensor:
        return x if self.inputs is None else self._times(x, self.inputs)

    def turned(self, x: Tensor) -> Tensor:
        return x if self.inputs is None else self._times(x, self.inputs) + RIDGE * x

    def rooted(self, x: Tensor) -> Tensor:
        return x if self.inputs is None else self._times(x, self._roots)

    @property
    def activity(self) -> Tensor:
        if self.inputs is None:
            return torch.ones(self.shape[1], dtype=self.dtype, device=self.device)
        return self.inputs.diagonal(dim1=1, dim2=2).reshape(-1)[: self.shape[1]] + RIDGE

    @cached_property
    def remaining(self) -> Tensor:
        if self.inputs is None:
            return self.activity
        return torch.cat([self.block(i).remaining for i in range(len(self.inputs))])

    def block(self, index: int) -> Metric:
        """The metric of the columns of one block; scaled as the whole one is."""
        assert self.inputs is not None
        count = min(self.width, self.shape[1] - index * self.width)
        part = Metric(torch.zeros(self.shape[0], count, dtype=self.dtype, device=self.device))
        part.inputs = self.inputs[index, :count, :count]
        return part

    @cached_property
    def _roots(self) -> Tensor:
        """Lower triangular roots of the damped blocks."""
        assert self.inputs is not None
        roots, eye = torch.empty_like(self.inputs), torch.eye(self.width, dtype=torch.float64, device=self.device)
        for start in range(0, len(roots), _TOGETHER):
            part = self.inputs[start : start + _TOGETHER].double()
            roots[start : start + _TOGETHER] = torch.linalg.cholesky((part + part.mT) / 2 + RIDGE * eye)
        return roots

    def _times(self, x: Tensor, blocks: Tensor) -> Tensor:
        """`x (rows, n)` times a matrix of these blocks."""
        n, rows = self.shape[1], x.reshape(-1, x.shape[-1])
        padded = F.pad(rows, (0, len(blocks) * self.width - n)).view(len(rows), len(blocks), self.width)
        product = torch.bmm(padded.transpose(0, 1), blocks.to(x.dtype)).transpose(0, 1)
        return product.reshape(len(rows), -1)[:, :n].reshape(x.shape)
