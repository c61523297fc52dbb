"""The best low-rank approximation of a matrix, plain or weighted by the inputs it will see."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from clisonix.errors import ClisonixError, nearest
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix, check_dense_float, check_finite
from clisonix.liam.rank import check_target, choose_rank
from clisonix.liam.sparse import Sparse

Method = Literal["auto", "exact", "randomized"]

# Below this size the exact decomposition takes milliseconds, and a random one gains nothing.
EXACT_BELOW = 512
POWER_ITERATIONS = 2
OVERSAMPLING = 10


@torch.no_grad()
def svd_compress(
    x: Tensor | Matrix,
    k: int | None = None,
    energy: float | None = None,
    tol: float | None = None,
    whiten: Tensor | None = None,
    method: Method = "auto",
    generator: torch.Generator | None = None,
) -> LowRank:
    """The closest matrix of low rank, its singular values split evenly between the two factors.

    Args:
        x: `(m, n)`, a floating-point tensor (dense, COO or CSR) or a matrix of the algebra.
        k: rank to keep. Above `min(m, n)` it is clamped to `min(m, n)`, which is already exact: more
            columns would only store zeros. Give exactly one of `k`, `energy` and `tol`.
        energy: fraction of the squared norm to keep, in (0, 1].
        tol: relative error allowed, in [0, 1).
        whiten: second moment `(n, n)` of the vectors `v` that `x` will multiply, `mean(v vᵀ)`, scaled
            anyhow. The error is then the mean of `‖(x - result) v‖²` instead of `‖x - result‖²`.
        method: `"exact"` computes a full SVD in float64. `"randomized"` needs `k` and touches `x` only by
            products with thin blocks. `"auto"` is exact for small matrices, for `energy` and `tol`, and where
            `k` is a large part of `min(m, n)`.
        generator: draws the random test block; without one a fixed seed is used, so equal inputs give
            equal results.

    Returns:
        A new `LowRank` in the dtype and on the device of `x`, detached from it.

    Raises:
        ClisonixError: a target out of range, a shape or type that does not fit, an entry that is not finite.

    Randomised range finding with power iterations: Halko, Martinsson, Tropp, "Finding structure with
    randomness", SIAM Review 53 (2011), algorithms 4.4 and 5.1. Weighting by the symmetric square root of
    the second moment: Wang et al., "SVD-LLM", ICLR 2025, which uses a Cholesky factor; that one does not
    exist for a singular moment.
    """
    check_target(k, energy, tol)
    if method not in ("auto", "exact", "randomized"):
        raise ClisonixError(f"method={method!r} is unknown{nearest(method, ('auto', 'exact', 'randomized'))}.")
    if not isinstance(x, Matrix):
        if isinstance(x, Tensor) and x.layout in (torch.sparse_coo, torch.sparse_csr):
            x = Sparse.from_tensor(x)
        else:
            check_dense_float(x, "x", 2)
            x = Dense(x)
    if method == "randomized" and k is None:
        raise ClisonixError('method="randomized" finds a given rank; give k, or use method="exact".')
    small = min(x.shape)
    if method == "auto":
        thin = k is not None and small > EXACT_BELOW and 4 * (k + OVERSAMPLING) <= small
        method = "randomized" if thin else "exact"
    if method == "exact" and whiten is None and isinstance(x, LowRank):
        return x.recompress(k=k, energy=energy, tol=tol)

    to_inputs: Tensor | None = None
    if whiten is not None:
        root, to_inputs = _roots(whiten.to(x.device), x.shape[1])
    if method == "exact":
        weight = check_finite(x.dense(), "x").double()
        u, s, vh = torch.linalg.svd(weight if whiten is None else weight @ root, full_matrices=False)
        rank = choose_rank(s, k=k, energy=energy, tol=tol)
    else:
        rank = min(int(k or 0), small)
        u, s, vh = _randomized(x, None if whiten is None else root, rank, generator)
    right = vh[:rank] if to_inputs is None else vh[:rank].double() @ to_inputs
    split = s[:rank].sqrt()
    return _in_range(LowRank((u[:, :rank] * split).to(x.dtype), (split[:, None] * right).to(x.dtype)))


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
    root, to_inputs = _roots(moment.to(weight.device), weight.shape[1])
    u, s, vh = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return u.to(dtype), s.to(dtype), (vh @ to_inputs).to(dtype)


def _roots(moment: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Factors `(n, n)` in float64: `root @ root.T = moment`, and `to_inputs` the pseudo-inverse of `root`.

    `root` is the symmetric square root times an orthogonal matrix, which changes neither norms nor
    the left singular vectors and saves a product.
    """
    check_dense_float(moment, "The second moment", 2)
    if moment.shape != (n, n):
        raise ClisonixError(
            f"The second moment has shape {tuple(moment.shape)}; a matrix with {n} columns needs ({n}, {n})."
        )
    wide = check_finite(moment.double(), "the second moment")
    values, vectors = torch.linalg.eigh((wide + wide.mT) / 2)
    if n == 0:
        return vectors, vectors
    largest = values[-1].clamp(min=0)
    if values[0] < -1e-3 * values.abs().max():
        raise ClisonixError(
            f"The second moment has a negative eigenvalue {float(values[0]):.3g} beside the largest "
            f"{float(values[-1]):.3g}; give mean(v vᵀ) over the inputs, which has none."
        )
    noise = max(n * torch.finfo(torch.float64).eps, torch.finfo(moment.dtype).eps)
    roots = torch.where(values > noise * largest, values, 0.0).sqrt()
    inverse = torch.where(roots > 0, 1 / roots, 0.0)
    return vectors * roots, inverse[:, None] * vectors.mT


def _randomized(
    x: Matrix, root: Tensor | None, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The leading `rank` singular triplets of `x` (or `x @ root`) from products with thin blocks."""
    generator = generator or torch.Generator().manual_seed(0)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.dtype != dtype:
        x = Dense(x.dense().to(dtype))
    if root is not None:
        x = x @ Dense(root.to(dtype))
    width = min(rank + OVERSAMPLING, *x.shape)
    block = torch.randn(x.shape[1], width, generator=generator, device=generator.device, dtype=dtype)
    basis = torch.linalg.qr(check_finite(x @ block.to(x.device), "a product with x")).Q
    for _ in range(POWER_ITERATIONS):
        # Orthonormalising between products keeps the small singular directions from rounding away.
        basis = torch.linalg.qr(x @ torch.linalg.qr(x.T @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.mT @ x, full_matrices=False)
    return basis @ u, s, vh


def _in_range(result: LowRank) -> LowRank:
    for factor in (result.left, result.right):
        if not bool(factor.isfinite().all()):
            raise ClisonixError(f"The factors leave the range of {result.dtype}; convert x to a wider type first.")
    return result
