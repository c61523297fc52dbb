"""What an error in a weight costs, in one unit for all layers of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.compress.moments import Moment
from clisonix.errors import ClisonixError
from clisonix.liam.exact import Spectrum
from clisonix.liam.metric import Metric
from clisonix.liam.metric_blocks import BlockMetric
from clisonix.liam.packed_lowrank import output_spectrum

# Rows of a weight that are looked at together, in entries: temporaries stay small beside a large embedding.
BLOCK_ENTRIES = 1 << 19


@dataclass(frozen=True)
class Weighing:
    """The metric of one weight, and what losing the weight altogether would cost.

    With a loss the unit is the expected squared change of the loss to first order, outputs taken as independent:
    the sum over positions and outputs of squared gradient times squared error. Without one it is the squared error
    relative to the squared output, one for each layer: activations and normalisation pass a relative error on at
    about its own size, so layers compare in this unit without knowing a loss.

    Args:
        metric: of inputs and outputs.
        total: the cost of losing the weight.
    """

    metric: Metric
    total: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.metric.shape

    def squares(self, deviation: Tensor, rows: Tensor | None = None) -> Tensor:
        """The weighted square of each row of `deviation (k, n)`, which are rows `rows` of the weight: `(k,)`."""
        metric = self.metric
        wide = deviation.detach().to(metric.dtype)
        turned = metric.turned(wide)
        weights = metric.row_weights[:, 0]
        return (turned * wide).sum(1).clamp(min=0) * (weights if rows is None else weights[rows])

    def square(self, weight: Tensor, other: Tensor | None = None) -> float:
        """The weighted square of `weight - other (m, n)`, some rows at a time."""
        step, total = max(1, BLOCK_ENTRIES // max(weight.shape[1], 1)), 0.0
        for start in range(0, len(weight), step):
            rows = torch.arange(start, min(start + step, len(weight)), device=weight.device)
            part = weight[start : start + step].to(self.metric.dtype)
            if other is not None:
                part = part - other[start : start + step]
            total += float(self.squares(part, rows).double().sum())
        return total

    def error(self, weight: Tensor, other: Tensor) -> float:
        """What `other` in the place of `weight` costs."""
        size = self.square(weight)
        return self.total * self.square(weight, other) / size if size > 0 else 0.0

    def values(self, weight: Tensor) -> Tensor:
        """The singular values of the weighted outputs, descending; a tall weight is not copied for them."""
        m, n = self.shape
        if m < n:
            return self.decompose(weight).values
        gram = torch.zeros(n, n, dtype=torch.float64, device=weight.device)
        roots = self.metric.row_weights.sqrt()
        step = max(1, BLOCK_ENTRIES // max(n, 1))
        for part, root in zip(torch.split(weight, step), torch.split(roots, step), strict=True):
            wide = part.double() * root
            gram.addmm_(wide.mT, wide)
        if self.metric.inputs is not None:
            factor = torch.linalg.cholesky(self.metric.damped.double())
            gram = factor.mT @ gram @ factor
        squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
        # Below this an eigenvalue is rounding of the largest.
        least = torch.finfo(torch.float64).eps * (n + m**0.5) * squares.max() if n else 0.0
        return torch.where(squares > least, squares, 0.0).sqrt()

    def decompose(self, weight: Tensor) -> Spectrum:
        """The singular values of the weighted outputs."""
        return output_spectrum(weight, self.metric)


def weighing(name: str, weight: Tensor, moment: Moment | None, *, with_loss: bool = False) -> Weighing:
    """The metric and the total of a weight `(m, n)`.

    A weight that an embedding and another layer share is weighed by both, as if all its rows were looked up
    alike often.

    Args:
        name: for the error message.
        weight: `(m, n)`.
        moment: of its inputs; None: blind.
        with_loss: whether the gradients of a loss were taken in.

    Raises:
        ClisonixError: the weight is not finite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ClisonixError(
            f"the weight of layer {name.removesuffix('.weight')!r} is not finite (NaN or infinity); repair it first"
        )
    if moment is None or not moment.seen:
        return Weighing(Metric(weight), 0.0 if moment is not None and with_loss else 1.0)
    rows = _smoothed(moment.rows)
    if moment.matrix is None:
        depth = moment.depth_weights if with_loss else None
        metric = Metric(weight, depth, rows)
        energies = torch.ones(weight.shape[1], device=weight.device) if depth is None else depth.to(weight.device)
        if not with_loss or moment.rows is None:
            return Weighing(metric, 1.0)
        sizes = _dot_squares(weight, energies)
        return Weighing(metric, float(moment.rows.to(sizes) @ sizes))
    if moment.rows is None:
        outputs = moment.output_weights if with_loss else None
        kind = BlockMetric if moment.matrix.ndim == 3 else Metric
        metric = kind(weight, moment.matrix, outputs)
        if not with_loss:
            return Weighing(metric, 1.0)
        return Weighing(metric, _loss_energy(weight, moment))
    return _tied(weight, moment, with_loss)


def _tied(weight: Tensor, moment: Moment, with_loss: bool) -> Weighing:
    """One matrix of inputs for both uses: each counts by its own total cost."""
    n, dtype = weight.shape[1], torch.promote_types(weight.dtype, torch.float32)
    inputs = moment.matrix
    assert inputs is not None
    assert moment.rows is not None
    if inputs.ndim == 3:
        inputs = torch.block_diag(*inputs)[:n, :n]  # type: ignore[no-untyped-call]
    inputs = inputs.to(weight.device, dtype)
    depth = moment.depth_weights if with_loss else None
    ones = torch.ones(n, device=weight.device, dtype=dtype)
    looks = (ones if depth is None else depth.to(ones)).diag()
    parts = []
    for matrix in (inputs, looks):
        size = float(_quadratic(weight, matrix).sum())
        parts.append(matrix / size if size > 0 else torch.zeros_like(matrix))
    if not with_loss:
        return Weighing(Metric(weight, parts[0] + parts[1]), 2.0)
    looked = float(moment.rows.to(dtype) @ _dot_squares(weight, looks.diagonal()).to(moment.rows.device))
    multiplied = _loss_energy(weight, moment)
    return Weighing(Metric(weight, multiplied * parts[0] + looked * parts[1]), looked + multiplied)


def _loss_energy(weight: Tensor, moment: Moment) -> float:
    """Sum over positions and outputs of squared gradient times squared output."""
    if moment.output_weights is None:
        return moment.sensitivity
    assert moment.matrix is not None
    sizes = _quadratic(weight, moment.matrix.to(weight.device))
    return moment.count * float(moment.output_weights.to(sizes) @ sizes)


def _quadratic(weight: Tensor, inputs: Tensor) -> Tensor:
    """`w M wᵀ` of each row `(m,)`."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if inputs.ndim == 1:
        return _dot_squares(weight, inputs.to(dtype))
    if inputs.ndim == 3:
        wide = weight.detach().to(dtype)
        turned = BlockMetric(weight, torch.zeros_like(inputs))._times(wide, inputs.to(dtype))
        return (turned * wide).sum(1)
    step = max(1, BLOCK_ENTRIES // max(weight.shape[1], 1))
    blocks = [block.to(dtype) for block in torch.split(weight.detach(), step)]
    return torch.cat([((block @ inputs.to(dtype)) * block).sum(1) for block in blocks])


def _dot_squares(weight: Tensor, columns: Tensor) -> Tensor:
    """The squares of each row, weighted by column: `(m,)`."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    step = max(1, BLOCK_ENTRIES // max(weight.shape[1], 1))
    squares = (block.to(dtype).square() for block in torch.split(weight.detach(), step))
    return torch.cat([block @ columns.to(dtype) for block in squares])


def _smoothed(counts: Tensor | None) -> Tensor | None:
    """How often each row counts, as if each had been looked up once more than on average: new data look up others."""
    return None if counts is None else counts.double() + max(float(counts.double().mean()), 1.0)
