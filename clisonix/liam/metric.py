"""What an error in the entries of a weight costs, given the inputs it will see and the outputs that matter."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix, check_dense_float, check_finite

# Added to the second moment of the inputs, relative to its mean diagonal, wherever something is fitted to it: a
# direction that calibration did not show is then cheap to get wrong, but not free. Three times as much costs up to a
# tenth on the calibration data, three times less costs as much on other data.
RIDGE = 3e-2
# Where rows are weighted in a fit, none weighs less than this part of the mean.
LEAST = 1e-6


class Metric:
    """`‖√O (W − Ŵ) S‖`: `O` is the diagonal of output weights, `S` a square root of the inputs' second moment.

    Args:
        weight: `(m, n)`, finite floating point; only its shape, type and device are kept.
        moments: `(n, n)`, `mean(v vᵀ)` over the inputs `v`, scaled anyhow, or its diagonal `(n,)`. None, or all
            zeros: every direction is as likely as any other.
        output_weights: `(m,)`, how much the squared error of each output counts, scaled anyhow (say the mean
            square of the loss's gradient by it). None, or all zeros: all alike.

    Attributes:
        inputs: `(n, n)` with a mean diagonal of 1, or None for the identity.
        outputs: `(m,)` with a mean of 1, or None for ones.
        dtype: of both and of every computation: at least float32.

    Raises:
        ClisonixError: shapes that do not fit, an entry that is not finite, a negative weight, or moments that
            are no second moment.
    """

    def __init__(self, weight: Tensor, moments: Tensor | None = None, output_weights: Tensor | None = None) -> None:
        check_dense_float(weight, "weight", 2)
        check_finite(weight, "weight")
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.shape, self.device = (weight.shape[0], weight.shape[1]), weight.device
        self.inputs = None if moments is None else self._checked_moments(moments)
        self.outputs = None if output_weights is None else self._checked_outputs(output_weights)

    def times_inputs(self, x: Tensor) -> Tensor:
        """`x @ inputs` for `x (..., n)`."""
        return x if self.inputs is None else x @ self.inputs

    def weigh_outputs(self, x: Tensor) -> Tensor:
        """`outputs[:, None] * x` for `x (m, ...)`."""
        return x if self.outputs is None else self.outputs[:, None] * x

    def square(self, deviation: Tensor) -> Tensor:
        """The squared norm of each row of `deviation (m, n)` under the inputs, not weighted by outputs: `(m,)`."""
        return (self.times_inputs(deviation) * deviation).sum(1).clamp(min=0)

    def norm(self, deviation: Tensor) -> float:
        """The weighted norm of `deviation (m, n)`."""
        return float(self.weigh_outputs(self.square(deviation)[:, None]).sum().sqrt())

    def error(self, weight: Tensor, matrix: Matrix) -> float:
        """The norm of `weight − matrix` relative to that of `weight`, measured on what `matrix` stores."""
        wide = weight.to(self.dtype)
        size, off = self.norm(wide), self.norm(wide - entries(matrix, self.dtype))
        return off / size if size > 0 else (0.0 if off == 0 else float("inf"))

    @cached_property
    def damped(self) -> Tensor:
        """`inputs` and a little of the identity: positive definite."""
        if self.inputs is None:
            return torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return self.inputs + RIDGE * torch.eye(self.shape[1], dtype=self.dtype, device=self.device)

    @cached_property
    def feedback(self) -> tuple[Tensor, Tensor]:
        """`U (n, n)`, upper triangular with `U Uᵀ = damped[order][:, order]`, and `order (n,)`: most active first."""
        order = self.damped.diagonal().argsort(descending=True, stable=True)
        turned = self.damped[order][:, order].double().flip(0, 1)
        return torch.linalg.cholesky(turned).flip(0, 1).to(self.dtype), order

    def turned(self, x: Tensor) -> Tensor:
        """`x @ damped` for `x (..., n)`; `x` itself without moments."""
        return x if self.inputs is None else x @ self.damped

    def rooted(self, x: Tensor) -> Tensor:
        """`x @ R` for `x (..., n)`, where `R Rᵀ = damped`; `x` itself without moments."""
        return x if self.inputs is None else x @ torch.linalg.cholesky(self.damped.double()).to(x.dtype)

    @property
    def activity(self) -> Tensor:
        """The diagonal of `damped (n,)`; ones without moments."""
        if self.inputs is None:
            return torch.ones(self.shape[1], dtype=self.dtype, device=self.device)
        return self.damped.diagonal()

    @property
    def remaining(self) -> Tensor:
        """What of each input is not told by those that are rounded after it `(n,)`: its conditional variance."""
        if self.inputs is None:
            return self.activity
        factor, order = self.feedback
        return factor.diagonal()[order.argsort()].square()

    @property
    def row_weights(self) -> Tensor:
        """`outputs (m, 1)`, with none so small that nothing could be fitted to its row."""
        if self.outputs is None:
            return torch.ones(self.shape[0], 1, dtype=self.dtype, device=self.device)
        return self.outputs.clamp(min=LEAST)[:, None]

    def for_rows(self, rows: int) -> Metric:
        """The same inputs for a matrix of another number of rows, whose outputs count alike."""
        other = copy.copy(self)
        other.shape, other.outputs = (rows, self.shape[1]), None
        return other

    def _checked_moments(self, moments: Tensor) -> Tensor | None:
        n = self.shape[1]
        check_dense_float(moments, "moments", 1 if isinstance(moments, Tensor) and moments.ndim == 1 else 2)
        if moments.shape not in ((n,), (n, n)):
            raise ClisonixError(
                f"moments is {tuple(moments.shape)}, but the weight {self.shape} has {n} columns; give their second "
                f"moment ({n}, {n}) or its diagonal ({n},)."
            )
        wide = check_finite(moments.to(self.device), "moments").to(self.dtype)
        wide = wide if wide.ndim == 2 else wide.diag()
        wide = (wide + wide.mT) / 2
        mean = wide.diagonal().mean() if n else wide.sum()
        if not bool(mean > 0):
            if bool((wide != 0).any()):
                raise ClisonixError(
                    f"moments has a mean diagonal of {float(mean):.3g}; give mean(v vᵀ) over the inputs v of the "
                    f"weight {self.shape}, which has squares there."
                )
            return None
        wide = wide / mean
        # In double precision a true second moment passes this even when it is singular.
        damped = wide.double() + RIDGE * torch.eye(n, dtype=torch.float64, device=self.device)
        if int(torch.linalg.cholesky_ex(damped).info) != 0:
            raise ClisonixError(
                f"moments {tuple(moments.shape)} has negative eigenvalues; give mean(v vᵀ) over the inputs v of the "
                f"weight {self.shape}, which has none."
            )
        return wide

    def _checked_outputs(self, weights: Tensor) -> Tensor | None:
        m = self.shape[0]
        check_dense_float(weights, "output_weights", 1)
        if weights.shape != (m,):
            raise ClisonixError(
                f"output_weights is {tuple(weights.shape)}, but the weight {self.shape} has {m} rows; give one "
                "number for each."
            )
        wide = check_finite(weights.to(self.device), "output_weights").to(self.dtype)
        if bool((wide < 0).any()):
            raise ClisonixError(
                f"output_weights has {int((wide < 0).sum())} negative entries for the weight {self.shape}; give mean "
                "squares, which are not."
            )
        mean = wide.mean() if m else wide.sum()
        return wide / mean if bool(mean > 0) else None


def entries(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """The entries of `matrix` as its products in `dtype` use them, though its scales be stored in a narrower type."""
    return copy.deepcopy(matrix).to(dtype).dense().detach()


def solve_gram(gram: Tensor, wanted: Tensor) -> Tensor:
    """`gram⁻¹ wanted` for `gram (k, k)`, positive semi-definite, and `wanted (k, ...)`, in double precision.

    Directions in which `gram` is zero stay near zero.
    """
    wide, columns = gram.double(), wanted.double().reshape(len(gram), -1)
    ridge = (1e-9 * wide.diagonal().mean()).clamp(min=torch.finfo(torch.float32).tiny)
    root, failed = torch.linalg.cholesky_ex(wide + ridge * torch.eye(len(wide), dtype=wide.dtype, device=wide.device))
    solved = torch.linalg.pinv(wide, hermitian=True) @ columns if int(failed) else torch.cholesky_solve(columns, root)
    return solved.view_as(wanted).to(gram.dtype)
