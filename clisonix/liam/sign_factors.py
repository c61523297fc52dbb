"""Two factors of signs and sizes whose product is near a given matrix."""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]

# The pull towards sign factors, relative to the mean curvature, at the first and at the last iteration.
PULL = (0.1, 1.0)
# Directions of the inputs that are told apart; the others count as one.
DIRECTIONS = 1024
# Above this size the leading directions are found by subspace iteration.
EXACT_BELOW = 2048


def sign_factors(
    target: Tensor, inputs: Tensor | None, rank: int, iterations: int, generator: torch.Generator | None
) -> tuple[Pair, Pair]:
    """Pairs of `left (m, rank)` and `right (rank, n)`, each of signs times a matrix of sizes of rank one.

    Alternating direction method of multipliers: one step for a factor at a time, its dual kept, after Boža and
    Macko, "Addition is almost all you need: compressing neural networks with double binary factorization"
    (2025). Two things differ: the inputs count with their correlations, and the pull towards signs grows.

    Args:
        target: `(m, n)`.
        inputs: `(n, n)`, positive definite: the error is the deviation times its square root. None for the
            identity.
        rank: inner size, at least 1.
        iterations: updates of each factor.
        generator: draws the rotation of the first pair; a fixed seed without one.

    Returns:
        The pair the search starts from, which is the projection of a rotated truncated SVD, and the best it found.
    """
    tail, values, basis = _directions(inputs, target)
    aim = _times(target, tail, values, basis)
    left, right = _rotated_svd(target, rank, generator)
    z_left, z_right = sign_rank_one(left), sign_rank_one(right)
    u_left, u_right = torch.zeros_like(left), torch.zeros_like(right)
    size = (aim * target).sum()
    start = best = (z_left, z_right)
    best_error = float("inf")
    identity = torch.eye(rank, dtype=target.dtype, device=target.device)
    for iteration in range(iterations + 1):
        inner, outer = z_left.mT @ z_left, _times(z_right, tail, values, basis) @ z_right.mT
        reached = z_left.mT @ aim
        error = float(size - 2 * (reached * z_right).sum() + (inner * outer).sum())
        if error < best_error:
            best, best_error = (z_left, z_right), error
        if iteration == iterations:
            break
        pull = PULL[0] * (PULL[1] / PULL[0]) ** (iteration / max(iterations - 1, 1))

        weight = _weight(outer, pull)
        wanted = aim @ z_right.mT + weight * (z_left - u_left)
        left = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(outer + weight * identity)).mT
        z_left = sign_rank_one(left + u_left)
        u_left += left - z_left

        inner = z_left.mT @ z_left
        weight = _weight(inner, pull)
        right = _solve(inner, z_left.mT @ aim + weight * (z_right - u_right), weight, tail, values, basis)
        z_right = sign_rank_one(right + u_right)
        u_right += right - z_right
    return start, best


def sign_rank_one(x: Tensor) -> Tensor:
    """Nearly the closest matrix to `x` of the form `diag(u) @ signs @ diag(v)`."""
    u, v = sizes(x)
    return torch.copysign(torch.outer(u, v), x)


def sizes(x: Tensor) -> tuple[Tensor, Tensor]:
    """`u (m,)` of length 1 and `v (n,)`, not negative, whose outer product is close to the sizes of `x (m, n)`.

    Sizes are all positive, so that the leading singular vectors are close to the means and one power iteration
    is enough.
    """
    positive = x.abs()
    u = positive @ positive.mean(0)
    u = u / u.norm().clamp(min=torch.finfo(x.dtype).tiny)
    return u, positive.mT @ u


def _weight(gram: Tensor, pull: float) -> Tensor:
    # A matrix of zeros needs some pull, or the solution is 0 / 0.
    return (pull * gram.diagonal().mean()).clamp(min=torch.finfo(gram.dtype).tiny ** 0.5)


def _times(x: Tensor, tail: Tensor, values: Tensor, basis: Tensor) -> Tensor:
    """`x @ C` for `C = tail · (1 − basis basisᵀ) + basis diag(values) basisᵀ`."""
    return tail * x + ((x @ basis) * (values - tail)) @ basis.mT


def _solve(gram: Tensor, wanted: Tensor, weight: Tensor, tail: Tensor, values: Tensor, basis: Tensor) -> Tensor:
    """`x` with `gram @ x @ C + weight · x = wanted`, for the `C` of `_times`."""
    curvature, vectors = torch.linalg.eigh(gram)
    curvature = curvature.clamp(min=0)[:, None]
    turned = vectors.mT @ wanted
    flat = 1 / (curvature * tail + weight)
    leading = (turned @ basis) * (1 / (curvature * values + weight) - flat)
    solved: Tensor = vectors @ (turned * flat + leading @ basis.mT)
    return solved


def _directions(inputs: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenvalue `()` that stands for the others, and the leading ones `(k,)` with their vectors `(n, k)`."""
    if inputs is None:
        return like.new_ones(()), like.new_ones(0), like.new_zeros(like.shape[1], 0)
    n, kept = len(inputs), min(DIRECTIONS, len(inputs))
    if n <= EXACT_BELOW:
        values, basis = torch.linalg.eigh(inputs)
        values, basis = values[-kept:], basis[:, -kept:]
    else:
        seed = torch.Generator().manual_seed(0)
        block = torch.randn(n, kept, generator=seed, dtype=inputs.dtype).to(inputs.device)
        for _ in range(3):
            block = torch.linalg.qr(inputs @ block).Q
        values, turn = torch.linalg.eigh(block.mT @ inputs @ block)
        basis = block @ turn
    left_over = (inputs.diagonal().sum() - values.sum()) / max(n - kept, 1)
    return left_over.clamp(min=0) if n > kept else values.new_ones(()), values, basis.contiguous()


def _rotated_svd(target: Tensor, rank: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Factors of the truncated SVD, turned by a random rotation so that their entries are alike in size."""
    tall = target.shape[0] > target.shape[1]
    wide = target.mT if tall else target
    squares, vectors = torch.linalg.eigh(wide @ wide.mT)
    kept = min(rank, len(wide))
    vectors, squares = vectors[:, -kept:], squares[-kept:]
    roots = squares.clamp(min=torch.finfo(wide.dtype).eps * squares[-1].clamp(min=0)).pow(0.25)
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.randn(rank, kept, generator=generator, device=generator.device, dtype=wide.dtype).to(wide.device)
    turn = torch.linalg.qr(noise).Q.mT
    left = (vectors * roots) @ turn
    right = turn.mT @ ((vectors.mT @ wide) / torch.where(roots > 0, roots, 1.0)[:, None])
    return (right.mT, left.mT) if tall else (left, right)
