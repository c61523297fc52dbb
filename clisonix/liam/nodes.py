"""Matrices made of matrices: sums, products, transposes and multiples, all lazy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam.association import Chain, Segment, work
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.matrix import Matrix, check_alike, check_size
from clisonix.liam.rowblocks import MIN_ROWS, at_once, by_row_blocks


def matrices(modules: nn.ModuleList) -> list[Matrix]:
    """The same modules, typed: `nn.ModuleList` forgets what it holds, and takes its time to tell."""
    return list(modules._modules.values())  # type: ignore[arg-type]


class Sum(Matrix):
    """`terms[0] + terms[1] + ...`, each applied in its own form."""

    terms: nn.ModuleList

    def __init__(self, *terms: Matrix) -> None:
        super().__init__()
        flat = [leaf for t in terms for leaf in (matrices(t.terms) if isinstance(t, Sum) else [t])]
        if not flat:
            raise ClisonixError("A sum of no matrices has no shape; give at least one.")
        for term in flat[1:]:
            if term.shape != flat[0].shape:
                raise ClisonixError(
                    f"{type(flat[0]).__name__} of shape {flat[0].shape} and {type(term).__name__} of shape "
                    f"{term.shape} cannot be added; give equal shapes."
                )
        check_alike(flat, "added")
        self.terms = nn.ModuleList(flat)
        self._size = flat[0].shape

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        m, n = self._size
        _check_width(x, -1, self, n)
        terms = matrices(self.terms)
        return by_row_blocks(lambda rows: total(term(rows) for term in terms), x, m, 3 * m)

    def adjoint(self, x: Tensor) -> Tensor:
        m, n = self._size
        _check_width(x, -1, self, m)
        terms = matrices(self.terms)
        return by_row_blocks(lambda rows: total(term.adjoint(rows) for term in terms), x, n, 3 * n)

    def matmul(self, x: Tensor) -> Tensor:
        _check_width(x, -2, self, self._size[1])
        return total(term.matmul(x) for term in matrices(self.terms)) if at_once(x) else super().matmul(x)

    def dense(self) -> Tensor:
        return total(term.dense() for term in matrices(self.terms))

    def _first_float(self) -> Tensor:
        return matrices(self.terms)[0]._first_float()


class Product(Matrix):
    """`factors[0] @ factors[1] @ ...`, applied to a block of vectors one factor at a time.

    A thin middle so stays thin. Only where a run of factors is much smaller multiplied out than stored, and
    the batch is large enough, is the run multiplied out first: `clisonix.liam.association` decides.
    """

    factors: nn.ModuleList

    def __init__(self, *factors: Matrix) -> None:
        super().__init__()
        flat = [leaf for f in factors for leaf in (matrices(f.factors) if isinstance(f, Product) else [f])]
        if not flat:
            raise ClisonixError("A product of no matrices has no shape; give at least one.")
        for left, right in pairwise(flat):
            if left.shape[1] != right.shape[0]:
                raise ClisonixError(
                    f"{type(left).__name__} of shape {left.shape} cannot multiply {type(right).__name__} of "
                    f"shape {right.shape}: the inner sizes {left.shape[1]} and {right.shape[0]} differ."
                )
        check_alike(flat, "multiplied")
        self.factors = nn.ModuleList(flat)
        sizes = [flat[0].shape[0], *(factor.shape[1] for factor in flat)]
        self._size = sizes[0], sizes[-1]
        self._between = max(map(sum, pairwise((0, *sizes, 0))))
        # With fewer vectors than this no other order is cheaper and no block of rows is worth it.
        self._few = min(*sizes, MIN_ROWS)
        self._plans: dict[int, list[Segment]] = {}

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        m, n = self._size
        _check_width(x, -1, self, n)
        if self._is_light(x, n):
            return _right_to_left(matrices(self.factors), x)
        steps = self._steps(x.numel() // n)
        return by_row_blocks(lambda rows: _right_to_left(steps, rows), x, m, self._between)

    def adjoint(self, x: Tensor) -> Tensor:
        m, n = self._size
        _check_width(x, -1, self, m)
        if self._is_light(x, m):
            return _left_to_right(matrices(self.factors), x)
        steps = self._steps(x.numel() // m)
        return by_row_blocks(lambda rows: _left_to_right(steps, rows), x, n, self._between)

    def matmul(self, x: Tensor) -> Tensor:
        n = self._size[1]
        _check_width(x, -2, self, n)
        if not self._is_light(x, n):
            return super().matmul(x)
        for factor in reversed(matrices(self.factors)):
            x = factor.matmul(x)
        return x

    def dense(self) -> Tensor:
        return Chain(matrices(self.factors)).dense()

    def _first_float(self) -> Tensor:
        return matrices(self.factors)[0]._first_float()

    def _is_light(self, x: Tensor, width: int) -> bool:
        """Whether one factor after the other is best for `x` of that width, as far as a glance can tell."""
        return torch.compiler.is_compiling() or x.numel() <= self._few * width

    def _steps(self, columns: int) -> list[Matrix | Tensor]:
        """The factors, with each run that the cost model multiplies out replaced by its entries."""
        factors = matrices(self.factors)
        # Batches up to twice as large share a plan, so that odd last batches do not each make their own.
        size = columns.bit_length()
        plan = self._plans.get(size)
        if plan is None:
            plan = self._plans[size] = Chain(factors).segments(1 << size >> 1)
        return [factors[i] if i == j else Chain(factors).entries(i, j) for i, j in plan]


class Transpose(Matrix):
    """`inner` with rows and columns exchanged; holds no tensors of its own."""

    def __init__(self, inner: Matrix) -> None:
        super().__init__()
        self.inner = inner
        m, n = inner.shape
        self._size = n, m

    @property
    def shape(self) -> tuple[int, int]:
        return self._size

    @property
    def T(self) -> Matrix:  # noqa: N802 - the field's name
        return self.inner

    def forward(self, x: Tensor) -> Tensor:
        _check_width(x, -1, self, self._size[1])
        return self.inner.adjoint(x)

    def adjoint(self, x: Tensor) -> Tensor:
        _check_width(x, -1, self, self._size[0])
        return self.inner(x)  # type: ignore[no-any-return]

    def matmul(self, x: Tensor) -> Tensor:
        _check_width(x, -2, self, self._size[1])
        return self.inner.adjoint(x.mT).mT

    def dense(self) -> Tensor:
        return self.inner.dense().mT

    def _first_float(self) -> Tensor:
        return self.inner._first_float()


class Scaled(Matrix):
    """`scale * inner`.

    Args:
        inner: the matrix.
        scale: a number, or a tensor with one element. It is kept as a tensor, so that a saved file
            holds it: a parameter stays one (and learns), anything else becomes a buffer.
    """

    scale: Tensor

    def __init__(self, inner: Matrix, scale: float | Tensor) -> None:
        super().__init__()
        self.inner = inner
        if isinstance(scale, nn.Parameter):
            value: Tensor = scale
        else:
            value = torch.as_tensor(scale, dtype=inner.dtype, device=inner.device)
        if value.numel() != 1:
            raise ClisonixError(
                f"A matrix is scaled by one number; a tensor of shape {tuple(value.shape)} was given."
            )
        if (value.dtype, value.device) != (inner.dtype, inner.device):
            raise ClisonixError(
                f"The scale is {value.dtype} on {value.device} and {type(inner).__name__} is {inner.dtype} on "
                f"{inner.device}; give a parameter of the same."
            )
        if isinstance(value, nn.Parameter):
            self.scale = value
        else:
            self.register_buffer("scale", value.reshape(()))

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def forward(self, x: Tensor) -> Tensor:
        inner, scale = self.inner, self.scale
        m = inner.shape[0]
        return by_row_blocks(lambda rows: inner(rows) * scale, x, m, 2 * m)

    def adjoint(self, x: Tensor) -> Tensor:
        inner, scale = self.inner, self.scale
        n = inner.shape[1]
        return by_row_blocks(lambda rows: inner.adjoint(rows) * scale, x, n, 2 * n)

    def matmul(self, x: Tensor) -> Tensor:
        return self.inner.matmul(x) * self.scale if at_once(x) else super().matmul(x)

    def dense(self) -> Tensor:
        return self.inner.dense() * self.scale

    def _first_float(self) -> Tensor:
        return self.inner._first_float()


@work.register
def _(matrix: Sum) -> int:
    return sum(map(work, matrices(matrix.terms)))


@work.register
def _(matrix: Product) -> int:
    return sum(map(work, matrices(matrix.factors)))


@work.register
def _(matrix: Transpose | Scaled) -> int:
    return work(matrix.inner)


def total(outputs: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors, each made only when it is its turn."""
    return reduce(torch.add, outputs)


def _check_width(x: Tensor, dim: int, node: Matrix, expected: int) -> None:
    """What `check_size` does, as far as the parts of `node` would not do it in their own name."""
    if x.ndim + dim < 0 or x.shape[dim] != expected:
        check_size(x, dim, node, expected)


def _right_to_left(steps: Sequence[Matrix | Tensor], x: Tensor) -> Tensor:
    last = len(steps) - 1
    for place in range(last, -1, -1):
        step = steps[place]
        if isinstance(step, Tensor):
            x = F.linear(x, step)
        elif place < last and _is_plain_diagonal(step):
            x = x * cast(Tensor, step._parameters["entries"])
        else:
            x = step(x)
    return x


def _left_to_right(steps: Sequence[Matrix | Tensor], x: Tensor) -> Tensor:
    for place, step in enumerate(steps):
        if isinstance(step, Tensor):
            x = x @ step
        elif place > 0 and _is_plain_diagonal(step):
            x = x * cast(Tensor, step._parameters["entries"])
        else:
            x = step.adjoint(x)
    return x


def _is_plain_diagonal(step: Matrix) -> bool:
    """Whether `step` may skip the call of a module, which takes longer than a row of a batch: no hooks."""
    return type(step) is Diagonal and not step._forward_hooks and not step._forward_pre_hooks
