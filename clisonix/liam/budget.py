"""What each form of a weight takes at least, and how to make the best of it within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from clisonix.liam.binary import Binary
from clisonix.liam.dense import Dense
from clisonix.liam.double_binary import fit_double_binary
from clisonix.liam.exact import Spectrum
from clisonix.liam.footprint import Shape, double_binary_nbytes, largest_rank, packed_lowrank_nbytes, planes_nbytes
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.metric import Metric
from clisonix.liam.packed_lowrank import best_left, best_right, fit_packed_lowrank, output_spectrum
from clisonix.liam.rounding import rounded_binary, rounded_integer, rounded_ternary
from clisonix.liam.sparse import Sparse

# The smallest group of columns with a scale of its own.
SMALLEST_GROUP = 16


@dataclass(frozen=True)
class Task:
    """A weight `(m, n)`, the bytes it may take, what its errors cost, and the type of all that is not packed."""

    weight: Tensor
    nbytes: int
    metric: Metric
    dtype: torch.dtype
    iterations: int
    generator: torch.Generator | None

    @property
    def shape(self) -> Shape:
        return self.metric.shape

    @cached_property
    def spectrum(self) -> Spectrum:
        return output_spectrum(self.weight, self.metric)

    def least_error(self, rank: int) -> float:
        """The relative error of the best matrix of that rank."""
        squares = self.spectrum.values.square()
        return float((squares[rank:].sum() / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)).sqrt())


@dataclass(frozen=True)
class Form:
    """A form of matrix.

    Attributes:
        least: the bytes it takes at least, of `(shape, itemsize)`.
        build: the best of it for a task that has them.
        rank: the rank it will have for a task; None where the form does not limit it.
    """

    least: Callable[[Shape, int], int]
    build: Callable[[Task], Matrix]
    rank: Callable[[Task], int] | None = None


def _dense(task: Task) -> Dense:
    return Dense(task.weight.to(task.dtype))


def _lowrank(task: Task) -> LowRank:
    left = best_left(task.spectrum, _rank(task), task.metric)
    right = best_right(left, task.weight.to(left.dtype), task.metric.row_weights)
    return LowRank(left.to(task.dtype), right.to(task.dtype))


def _rank(task: Task) -> int:
    m, n = task.shape
    return min(task.nbytes // (task.dtype.itemsize * (m + n)), m, n)


def _packed_lowrank(task: Task, bits: int) -> LowRank:
    rank = _packed_rank(task, bits)
    return fit_packed_lowrank(task.weight, rank, bits, task.metric, task.dtype, task.spectrum)


def _packed_rank(task: Task, bits: int) -> int:
    shape, itemsize = task.shape, task.dtype.itemsize
    return largest_rank(lambda r: packed_lowrank_nbytes(shape, r, bits, itemsize), task.nbytes, min(shape))


def _double_binary(task: Task) -> Matrix:
    shape, itemsize = task.shape, task.dtype.itemsize
    rank = largest_rank(lambda r: double_binary_nbytes(shape, r, itemsize), task.nbytes, task.nbytes)
    return fit_double_binary(task.weight, rank, task.metric, task.iterations, task.dtype, task.generator)


def _integer(task: Task) -> Integer:
    """As many bits as fit with one scale for each row, then the smallest groups that fit."""
    m, n = task.shape
    plane, scales = planes_nbytes(task.shape, 1), task.dtype.itemsize * m
    bits = min((task.nbytes - scales) // plane, 8)
    groups = max((task.nbytes - bits * plane) // scales, 1)
    group = max(8 * -(-n // (8 * groups)), SMALLEST_GROUP)
    return rounded_integer(task.weight, bits, min(group, n), metric=task.metric, dtype=task.dtype)


def _ternary(task: Task) -> Ternary:
    return rounded_ternary(task.weight, metric=task.metric, dtype=task.dtype)


def _binary(task: Task) -> Binary:
    return rounded_binary(task.weight, metric=task.metric, dtype=task.dtype)


def _sparse(task: Task) -> Sparse:
    # Two int32 places for each row and one for each value.
    count = (task.nbytes - 4 * (task.shape[0] + 1)) // (4 + task.dtype.itemsize)
    density = min(count / task.weight.numel(), 1.0)
    return Sparse.largest(task.weight.to(task.dtype), density, task.metric.inputs)


def _packed(bits: int) -> Form:
    return Form(
        lambda shape, itemsize: packed_lowrank_nbytes(shape, 1, bits, itemsize),
        partial(_packed_lowrank, bits=bits),
        partial(_packed_rank, bits=bits),
    )


def _planes(bits: int) -> Callable[[Shape, int], int]:
    return lambda shape, itemsize: planes_nbytes(shape, bits) + itemsize * shape[0]


# Those whose rank says beforehand how good they can be come last.
FORMS: dict[str, Form] = {
    "dense": Form(lambda shape, itemsize: shape[0] * shape[1] * itemsize, _dense),
    "sparse": Form(lambda shape, itemsize: 4 * (shape[0] + 1) + 4 + itemsize, _sparse),
    "binary": Form(_planes(1), _binary),
    "ternary": Form(_planes(2), _ternary),
    "integer": Form(_planes(2), _integer),
    "double binary": Form(lambda shape, itemsize: double_binary_nbytes(shape, 1, itemsize), _double_binary),
    "low rank": Form(lambda shape, itemsize: (shape[0] + shape[1]) * itemsize, _lowrank, _rank),
    "low rank, 3 bits": _packed(3),
    "low rank, 4 bits": _packed(4),
    "low rank, 8 bits": _packed(8),
}
