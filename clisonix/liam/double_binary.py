"""A weight as the product of two matrices of signs, with sizes before, between and after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import pack_signs
from clisonix.liam.binary import Binary
from clisonix.liam.diagonal import Diagonal
from clisonix.liam.footprint import double_binary_nbytes, rank_for
from clisonix.liam.metric import Metric, solve_gram
from clisonix.liam.nodes import Product
from clisonix.liam.sign_factors import sign_factors, sizes
from clisonix.liam.sign_flips import flip_signs

ITERATIONS = 30
# Rounds of flipping signs and refitting sizes, and the part of the squared error that makes another one worth it.
ROUNDS, WORTH = 4, 2e-3


@torch.no_grad()
def double_binary(
    weight: Tensor,
    rank: int | None = None,
    bits: float | None = None,
    *,
    moments: Tensor | None = None,
    output_weights: Tensor | None = None,
    iterations: int = ITERATIONS,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Product:
    """`diag(a) S diag(b) T diag(c)` near `weight`, with `S (m, rank)` and `T (rank, n)` of signs.

    Stored as `Binary @ Binary @ Diagonal`: two packed matrices of signs and three vectors.

    >>> import torch
    >>> from clisonix.liam import double_binary
    >>> w = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    >>> a = double_binary(w, bits=3.0, dtype=torch.float16)
    >>> a.factors[0].shape, a.factors[1].shape, 8 * a.nbytes / w.numel() <= 3.0
    ((96, 88), (88, 64), True)

    Args:
        weight: `(m, n)`, finite floating point.
        rank: inner size, which may be larger than `m` and `n`. Give exactly one of `rank` and `bits`.
        bits: for each entry of `weight`, everything counted; the largest rank that fits is taken.
        moments: `(n, n)`, second moment of the inputs; None takes every direction as equally likely.
        output_weights: `(m,)`, how much the squared error of each output counts; None takes all alike.
        iterations: of the search for the signs; more is better and takes longer, in proportion.
        dtype: of the three vectors, and so of the matrix; that of `weight` by default.
        generator: draws the start of the search; a fixed seed without one, so equal inputs give equal results.

    Returns:
        A product on the device of `weight`, detached from it, and no further from it in the weighted norm
        than the start of the search was.

    Raises:
        ClisonixError: not exactly one of `rank` and `bits`, one out of range, fewer bits than rank 1 takes,
            sizes that leave the range of `dtype`, or shapes that do not fit.

    Signs are found as in `clisonix.liam.sign_factors`. Then single signs flip and sizes are refitted by least
    squares, as long as that lowers the weighted error by enough.
    """
    metric = Metric(weight, moments, output_weights)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ClisonixError(f"iterations={iterations!r} is no number of updates; give 0 or more.")
    itemsize = (dtype or weight.dtype).itemsize
    fitting = rank_for(rank, bits, metric.shape, lambda r: double_binary_nbytes(metric.shape, r, itemsize))
    return fit_double_binary(weight, fitting, metric, iterations, dtype, generator)


@torch.no_grad()
def fit_double_binary(
    weight: Tensor,
    rank: int,
    metric: Metric,
    iterations: int = ITERATIONS,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Product:
    """`double_binary` of a given rank in a given metric."""
    w, (m, n), kept = weight.to(metric.dtype), metric.shape, dtype or weight.dtype
    size = float(w.abs().max()) if w.numel() else 0.0
    if size == 0:
        ones = (
            torch.ones(m, rank, dtype=w.dtype, device=w.device),
            torch.ones(rank, n, dtype=w.dtype, device=w.device),
        )
        nothing = w.new_zeros(m), w.new_zeros(rank), w.new_zeros(n)
        return _stored(_Factors(nothing[0], ones[0], nothing[1], ones[1], nothing[2]), kept)
    start, found = _search(w / size, rank, metric, iterations, generator)
    _polish(found, w / size, metric)
    if not metric.norm(w / size - found.dense()) <= metric.norm(w / size - start.dense()):
        found = start
    _even(found, size)
    # Storing two of the vectors rounds something away that the third can make up for.
    found.b, found.c = found.b.to(kept).to(w.dtype), found.c.to(kept).to(w.dtype)
    found.a = _row_sizes(found, *_right_products(found, w, metric))
    stored = _stored(found, kept)
    if not all(bool(held.isfinite().all()) for held in stored.parameters()):
        raise ClisonixError(
            f"The sizes of a weight as large as {size:.3g} leave the range of {kept}; give a wider dtype."
        )
    return stored


@dataclass
class _Factors:
    """`diag(a) @ s @ diag(b) @ t @ diag(c)`."""

    a: Tensor  # (m,)
    s: Tensor  # (m, r)
    b: Tensor  # (r,)
    t: Tensor  # (r, n)
    c: Tensor  # (n,)

    def dense(self) -> Tensor:
        return (self.a[:, None] * self.s * self.b) @ self.t * self.c


def _search(
    w: Tensor, rank: int, metric: Metric, iterations: int, generator: torch.Generator | None
) -> list[_Factors]:
    """The start and the end of a search in which rows and columns are as large as they count."""
    rows = metric.row_weights.sqrt()
    if metric.inputs is None:
        columns, correlations = torch.ones_like(w[0]), None
    else:
        columns = metric.damped.diagonal().sqrt()
        correlations = metric.damped / columns / columns[:, None]
    found = []
    for left, right in sign_factors(rows * w * columns, correlations, rank, iterations, generator):
        (a, before), (after, c) = sizes(left), sizes(right)
        s, t = (torch.where(x >= 0, 1.0, -1.0).to(x) for x in (left, right))
        found.append(_Factors(a / rows[:, 0], s, before * after, t, c / columns))
    return found


def _polish(f: _Factors, w: Tensor, metric: Metric) -> None:
    """Flip signs and refit sizes in place, each time to the best with all others given."""
    outputs, last = metric.row_weights, float("inf")
    seen = outputs * (w if metric.inputs is None else w @ metric.damped)
    total = (seen * w).sum()
    for _ in range(ROUNDS):
        gram, reach = _right_products(f, w, metric)
        signs = f.s.mT.contiguous()
        # Rows do not meet, so their sizes and weights can be divided out.
        flip_signs(signs, f.b[:, None] * gram * f.b, None, f.b[:, None] * reach * _inverse(f.a))
        f.s = signs.mT.contiguous()
        f.a = _row_sizes(f, gram, reach)
        left = f.a[:, None] * f.s
        f.b = solve_gram((left.mT @ (outputs * left)) * gram, (outputs * left * reach.mT).sum(0))

        left = left * f.b
        columns = None if metric.inputs is None else f.c[:, None] * metric.damped * f.c
        aim = (left.mT @ seen) * (_inverse(f.c) if columns is None else f.c)
        flip_signs(f.t, left.mT @ (outputs * left), columns, aim)
        product = left @ f.t
        wanted = (product * seen).sum(0)
        if metric.inputs is None:
            f.c = wanted * _inverse((outputs * product.square()).sum(0))
            error = float(total - f.c @ wanted)
        else:
            curves = (product.mT @ (outputs * product)) * metric.damped
            f.c = solve_gram(curves, wanted)
            error = float(total - 2 * (f.c @ wanted) + f.c @ curves @ f.c)
        if last - error < WORTH * error:
            break
        last = error


def _right_products(f: _Factors, w: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """For `z = t @ diag(c)` and second moments `H`: `z H zᵀ (r, r)` and `z H wᵀ (r, m)`."""
    z = f.t * f.c
    turned = z if metric.inputs is None else z @ metric.damped
    return turned @ z.mT, turned @ w.mT


def _row_sizes(f: _Factors, gram: Tensor, reach: Tensor) -> Tensor:
    """The best `a (m,)` for the rest, given the products of `_right_products`."""
    rows = f.s * f.b
    return (rows * reach.mT).sum(1) * _inverse(((rows @ gram) * rows).sum(1).clamp(min=0))


def _inverse(x: Tensor) -> Tensor:
    """`1 / x`, and 0 where `x` is."""
    return torch.where(x == 0, 0.0, 1 / x)


def _even(f: _Factors, size: float) -> None:
    """Multiply by `size`, shared out so that the vectors are alike in size: one learning rate then suits all."""
    lengths = [max(float(v.square().mean().sqrt()), torch.finfo(v.dtype).tiny) for v in (f.a, f.b, f.c)]
    common = (size * lengths[0] * lengths[1] * lengths[2]) ** (1 / 3)
    f.a, f.b, f.c = (v * (common / length) for v, length in zip((f.a, f.b, f.c), lengths, strict=True))


def _stored(f: _Factors, dtype: torch.dtype) -> Product:
    first = Binary(pack_signs(f.s > 0), f.a.to(dtype), f.s.shape[1])
    return Product(first, Binary(pack_signs(f.t > 0), f.b.to(dtype), f.t.shape[1]), Diagonal(f.c.to(dtype)))
