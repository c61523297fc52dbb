"""The best low-rank approximation of a matrix, plain or weighted by the inputs it will see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from clisonix.errors import ClisonixError, nearest
from clisonix.liam import exact, randomized, streaming
from clisonix.liam.compressed import SPARSE_LAYOUTS
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix, check_dense_float, check_finite
from clisonix.liam.rank import Target, choose_rank
from clisonix.liam.row_sources import Source
from clisonix.liam.sparse import Sparse
from clisonix.liam.whitening import roots

Method = Literal["auto", "exact", "randomized"]
METHODS = ("auto", "exact", "randomized")
Factors = tuple[Tensor, Tensor]


@torch.no_grad()
def svd_compress(
    x: Tensor | Matrix | Source,
    k: int | None = None,
    energy: float | None = None,
    tol: float | None = None,
    whiten: Tensor | None = None,
    method: Method = "auto",
    generator: torch.Generator | None = None,
) -> LowRank:
    """The closest matrix of low rank, its singular values split evenly between the two factors.

    >>> import numpy as np, torch
    >>> from clisonix.liam import svd_compress
    >>> x = torch.linspace(0, 1, 900)[:, None] ** torch.linspace(0, 4, 700)
    >>> svd_compress(x, k=8)
    LowRank(900×700, float32, 51200 bytes, rank 8)
    >>> svd_compress(x, tol=0.01).rank
    4
    >>> parts = [x[:400], x[400:]]
    >>> svd_compress(parts, k=8)  # in several passes; `iter(parts)` would do with one
    LowRank(900×700, float32, 51200 bytes, rank 8)

    Args:
        x: one matrix `(m, n)`. In memory: a floating-point tensor, dense or sparse, or a matrix of the
            algebra. Read in blocks, so that only the factors need to fit in memory: an array of two
            dimensions (`numpy.memmap` and what is sliced like it; the file is only read), a list or another
            iterable of row blocks `(b, n)` that can be read again, a function that returns such an iterable,
            or an iterator, which is read once. For a batch of matrices call it for each.
        k: rank to keep. Above `min(m, n)` it is clamped to `min(m, n)`, which is already exact: more
            columns would only store zeros. Give exactly one of `k`, `energy` and `tol`.
        energy: fraction of the squared norm to keep, in (0, 1].
        tol: relative error allowed, in [0, 1).
        whiten: second moment `(n, n)` of the vectors `v` that `x` will multiply, `mean(v vᵀ)`, scaled
            anyhow. The error is then the mean of `‖(x - result) v‖²` instead of `‖x - result‖²`.
        method: `"exact"` finds every singular value. `"randomized"` touches `x` only by products with thin
            blocks: the Frobenius error at rank `k` is within 1 % of the best on all spectra we measured, and
            `energy` and `tol` are met with a rank about as much above the smallest. `"auto"` takes the one
            that will be faster.
        generator: draws the random test block; without one a fixed seed is used, so equal inputs give
            equal results.

    Returns:
        A new `LowRank` in the dtype and on the device of `x`, detached from it. Arrays of integers give
        float32 up to 16 bits, else float64.

    Raises:
        ClisonixError: a target out of range, a shape or type that does not fit, an entry that is not finite.

    Randomised search: see `clisonix.liam.randomized`; blocks: see `clisonix.liam.streaming` and
    `clisonix.liam.onepass`. Weighting by a square root of the second moment: Wang et al., "SVD-LLM", ICLR
    2025, which uses a Cholesky factor; that one does not exist for a singular moment.
    """
    target = Target(k, energy, tol)
    if method not in METHODS:
        raise ClisonixError(f"method={method!r} is unknown{nearest(method, METHODS)}.")
    if not isinstance(x, Tensor | Matrix):
        return streaming.compress(x, target, whiten, method, generator)
    matrix = _as_matrix(x)
    # Half-precision products would spoil the search, and nothing here is differentiated.
    with torch.autocast(matrix.device.type, enabled=False):
        root, to_inputs = (None, None) if whiten is None else roots(whiten.to(matrix.device), matrix.shape[1])
        left, right = _factors(matrix, target, root, method, generator)
        right = right if to_inputs is None else right.double() @ to_inputs
        return in_range(LowRank(left.to(matrix.dtype), right.to(matrix.dtype)))


@torch.no_grad()
def whitened_svd(weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every best low-rank approximation of `weight` for given inputs, in one decomposition.

    For any `r`, `left = U[:, :r] * s[:r].sqrt()` and `right = s[:r].sqrt()[:, None] * right_map[:r]`
    minimise `‖(weight - left @ right) S‖`, where `S` is the symmetric square root of `moment`, and the
    square of that minimum is `s[r:].square().sum()`. Directions that `moment` says never occur cost
    nothing, so `right_map` is zero on them.

    Args:
        weight: `(m, n)`, floating point.
        moment: `(n, n)`, the second moment of the inputs: symmetric, positive semi-definite.

    Returns:
        `U (m, q)` with orthonormal columns, `s (q,)` descending, `right_map (q, n)`, for `q = min(m, n)`:
        computed in float64, returned in float64 for a float64 weight and in float32 otherwise.

    Raises:
        ClisonixError: shapes that do not fit, an entry that is not finite, or a `moment` that is no
            second moment.
    """
    check_dense_float(weight, "weight", 2)
    check_finite(weight, "weight")
    root, to_inputs = roots(moment.to(weight.device), weight.shape[1])
    u, s, vh = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return u.to(dtype), s.to(dtype), (vh @ to_inputs).to(dtype)


def in_range(result: LowRank) -> LowRank:
    """`result`, when its dtype could hold what was computed."""
    for factor in (result.left, result.right):
        if not bool(factor.isfinite().all()):
            raise ClisonixError(f"The factors leave the range of {result.dtype}; convert x to a wider type first.")
    return result


def _factors(
    x: Matrix, target: Target, root: Tensor | None, method: Method, generator: torch.Generator | None
) -> Factors:
    """Both factors, of `x @ root` where there is a root."""
    if isinstance(x, LowRank) and method != "randomized":
        thin = x if root is None else LowRank(x.left.double(), x.right.double() @ root)
        thin = thin.recompress(k=target.k, energy=target.energy, tol=target.tol)
        return thin.left.detach(), thin.right.detach()
    found = None if method == "exact" or 0 in x.shape else _search(x, target, root, method, generator)
    if found is not None:
        return found
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight = check_finite(x.dense(), "x").to(dtype)
    spectrum = exact.spectrum(weight if root is None else weight.double() @ root, squared=dtype == torch.float32)
    return spectrum.factors(choose_rank(spectrum.values, k=target.k, energy=target.energy, tol=target.tol))


def _search(
    x: Matrix, target: Target, root: Tensor | None, method: Method, generator: torch.Generator | None
) -> Factors | None:
    """The factors from products with thin blocks, or None where the exact way is the better one."""
    given, small = torch.promote_types(x.dtype, torch.float32), min(x.shape)
    dtype = next((t for t in (given, torch.float64) if target.k or target.share >= randomized.TELLABLE[t]), None)
    if dtype is None:
        if method == "auto":
            return None
        least = randomized.TELLABLE[torch.float64]
        raise ClisonixError(
            f"Products cannot tell a squared error of {target.share:.1g} of the squared norm from their rounding; "
            f'give tol of at least {least**0.5:g} or energy up to 1 - {least:g}, or use method="exact".'
        )
    # Adding up the shorter searches that find nothing, a search for a rank that is not known takes twice as long.
    slower = (1 if target.k else 2) * (1 if dtype == given else 3)
    patience = exact.milliseconds(x.shape, squared=given == torch.float32) / slower if method == "auto" else math.inf
    limit = target.k or _highest(small, lambda rank: randomized.milliseconds(x, rank) < patience)
    if randomized.milliseconds(x, min(limit, small)) >= patience:
        return None
    x, scale = randomized.searchable(x, dtype)
    x = x if root is None else x @ Dense(root.to(dtype))
    if target.k:
        rank = min(target.k, small)
        found = randomized.leading(x, rank, generator)
    else:
        total = randomized.squared_norm(x)
        met = randomized.within(lambda k: randomized.leading(x, k, generator), lambda: total, target, small, limit)
        if met is None:
            return None
        found, rank = met
    left, right = found.factors(rank)
    return (left, right) if scale == 1.0 else (left * scale**0.5, right * scale**0.5)


def _highest(small: int, fits: Callable[[int], bool]) -> int:
    """The highest of `small / 2, small / 4, ...` that fits, `small` itself if that does, 0 if none."""
    rank = small
    while rank and not fits(rank):
        rank //= 2
    return rank


def _as_matrix(x: Tensor | Matrix) -> Matrix:
    if isinstance(x, Matrix):
        return x
    if x.layout in SPARSE_LAYOUTS and x.ndim == 2:
        return Sparse.from_tensor(x)
    if x.ndim > 2:
        raise ClisonixError(
            f"x has shape {tuple(x.shape)}, which is many matrices; compress each of them, as in "
            "[svd_compress(part, k=32) for part in x]."
        )
    check_dense_float(x, "x", 2)
    return Dense(x)
