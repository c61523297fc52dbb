"""Matrices made of matrices: sums, products, transposes and multiples, all lazy."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix


def _matrices(modules: Iterable[nn.Module]) -> list[Matrix]:
    """The same modules, typed: `nn.ModuleList` forgets what it holds."""
    return cast("list[Matrix]", list(modules))


class Sum(Matrix):
    """`terms[0] + terms[1] + ...`, each applied in its own form."""

    terms: nn.ModuleList

    def __init__(self, *terms: Matrix) -> None:
        super().__init__()
        flat = [leaf for t in terms for leaf in (_matrices(t.terms) if isinstance(t, Sum) else [t])]
        if not flat:
            raise ClisonixError("A sum of no matrices has no shape; give at least one.")
        for term in flat[1:]:
            if term.shape != flat[0].shape:
                raise ClisonixError(
                    f"{type(flat[0]).__name__} of shape {flat[0].shape} and {type(term).__name__} of shape "
                    f"{term.shape} cannot be added; give equal shapes."
                )
        self.terms = nn.ModuleList(flat)

    @property
    def shape(self) -> tuple[int, int]:
        return _matrices(self.terms)[0].shape

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [term(x) for term in _matrices(self.terms)]
        return reduce(torch.add, outputs)

    def adjoint(self, x: Tensor) -> Tensor:
        return reduce(torch.add, [term.adjoint(x) for term in _matrices(self.terms)])

    def dense(self) -> Tensor:
        return reduce(torch.add, [term.dense() for term in _matrices(self.terms)])


class Product(Matrix):
    """`factors[0] @ factors[1] @ ...`, applied to a block of vectors one factor at a time.

    Applying factors one by one never forms a product of two of them, so a thin middle stays thin.
    """

    factors: nn.ModuleList

    def __init__(self, *factors: Matrix) -> None:
        super().__init__()
        flat = [leaf for f in factors for leaf in (_matrices(f.factors) if isinstance(f, Product) else [f])]
        if not flat:
            raise ClisonixError("A product of no matrices has no shape; give at least one.")
        for left, right in pairwise(flat):
            if left.shape[1] != right.shape[0]:
                raise ClisonixError(
                    f"{type(left).__name__} of shape {left.shape} cannot multiply {type(right).__name__} of "
                    f"shape {right.shape}: the inner sizes {left.shape[1]} and {right.shape[0]} differ."
                )
        self.factors = nn.ModuleList(flat)

    @property
    def shape(self) -> tuple[int, int]:
        factors = _matrices(self.factors)
        return factors[0].shape[0], factors[-1].shape[1]

    def forward(self, x: Tensor) -> Tensor:
        for factor in reversed(_matrices(self.factors)):
            x = factor(x)
        return x

    def adjoint(self, x: Tensor) -> Tensor:
        for factor in _matrices(self.factors):
            x = factor.adjoint(x)
        return x

    def dense(self) -> Tensor:
        # Start at the end with fewer rows or columns to carry through the chain.
        factors = _matrices(self.factors)
        m, n = self.shape
        if n <= m:
            columns = factors[-1].dense().mT
            for factor in reversed(factors[:-1]):
                columns = factor(columns)
            return columns.mT
        rows = factors[0].dense()
        for factor in factors[1:]:
            rows = factor.adjoint(rows)
        return rows


class Transpose(Matrix):
    """`inner` with rows and columns exchanged; holds no tensors of its own."""

    def __init__(self, inner: Matrix) -> None:
        super().__init__()
        self.inner = inner

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.inner.shape
        return n, m

    @property
    def T(self) -> Matrix:  # noqa: N802 - the field's name
        return self.inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.adjoint(x)

    def adjoint(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]

    def dense(self) -> Tensor:
        return self.inner.dense().mT


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
        if isinstance(value, nn.Parameter):
            self.scale = value
        else:
            self.register_buffer("scale", value.reshape(()))

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x)) * self.scale

    def adjoint(self, x: Tensor) -> Tensor:
        return self.inner.adjoint(x) * self.scale

    def dense(self) -> Tensor:
        return self.inner.dense() * self.scale
