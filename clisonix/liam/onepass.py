"""Low rank for a matrix whose rows come by once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.liam.exact import gram
from clisonix.liam.randomized import TELLABLE
from clisonix.liam.rank import Target
from clisonix.liam.rows import Rows
from clisonix.liam.thin_svd import symmetric_eigen


def factors(rows: Rows, target: Target) -> tuple[Tensor, Tensor]:
    """`left (m, rank)` and `right (rank, n)`, singular values split evenly, from one reading.

    What was read so far is kept as `r` rows: its singular values times its right singular vectors. The next
    block is put below them, and the leading `r` directions of both are kept. Each time, a row of the matrix is
    held as its `r` coordinates; turning older ones into newer directions waits until the end, when it is one
    pass over them. Held at once: three times `r n` and one and a half times `r m` numbers, and the factors.

    For a rank `k`, `r` is `2 k + 16`. What is dropped is orthogonal to all that is kept later, so the squared
    error is the sum of the squares dropped. With rows in no particular order it was within 1 % of the best on
    all spectra we measured. An order can defeat it: directions that come a little at a time, each time less
    than the smallest of the `r`, are dropped each time. For `energy` and `tol` nothing is dropped beyond what
    they allow, half of it on the way and the rest at the end, so they hold in any order; `r` is what that takes.

    Args:
        rows: read from here to their end.
        target: the rank, or what may be lost of the squared norm.

    Merging truncated decompositions row block by row block: Brand, "Fast low-rank modifications of the thin
    singular value decomposition", Linear Algebra and its Applications 415 (2006).
    """
    if target.k is None and target.share < TELLABLE[rows.dtype]:
        rows.dtype = torch.float64
    known = directions = torch.zeros(0, rows.columns, dtype=rows.dtype, device=rows.device)
    squares = torch.zeros(0, dtype=torch.float64, device=rows.device)
    coordinates: list[Tensor] = []
    turns: list[Tensor] = []
    lost = 0.0
    # Blocks of twice what is kept: shorter ones leave more turns to hold, longer ones take more to decompose.
    for _, block in rows.blocks(512 if target.k is None else 2 * (2 * target.k + 16)):
        stack = torch.cat([known, block])
        seen, vectors = _spectrum(stack)
        if target.k is not None:
            kept = min(2 * target.k + 16, len(seen))
        else:
            # tail[r] is what keeping r of them loses.
            tail = seen.flip(0).cumsum(0).flip(0)
            kept = int((tail > target.share / 2 * rows.squared_norm - lost).sum())
        lost += float(seen[kept:].sum())
        squares = seen[:kept]
        newer = _directions(stack, squares, vectors[:, :kept])
        turns.append(directions @ newer.mT)
        coordinates.append(block @ newer.mT)
        directions, known = newer, squares.sqrt().to(newer.dtype)[:, None] * newer
    rank = target.choose(squares, rows.squared_norm) or len(squares)
    split = squares[:rank].sqrt().sqrt()
    turn = torch.eye(len(squares), rank, dtype=rows.dtype, device=rows.device) / split.to(rows.dtype)
    right = (split[:, None] * directions[:rank]).to(rows.kept)
    stop = rows.count or 0
    # Wider than what was found only where the numerical rank is below k.
    wanted = max(rank, 1) if target.k is None else min(target.k, rows.columns, stop)
    left = torch.zeros(stop, wanted, dtype=rows.kept, device=rows.device)
    while coordinates:
        part = coordinates.pop()
        left[stop - len(part) : stop, :rank] = part @ turn
        stop, turn = stop - len(part), turns.pop() @ turn
    return left, F.pad(right, (0, 0, 0, wanted - rank))


def _spectrum(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values of `stack (w, n)` above rounding, descending, and vectors of its shorter side."""
    w, n = stack.shape
    products = gram(stack if w >= n else stack.mT)
    if not bool(products.isfinite().all()):
        raise ClisonixError("The squares of the entries of x leave the range of float64; scale x first.")
    squares, vectors = symmetric_eigen(products)
    noise = max((4 * torch.finfo(stack.dtype).eps) ** 2, len(squares) * torch.finfo(torch.float64).eps)
    count = int((squares > noise * squares[:1].clamp(min=0)).sum())
    return squares[:count], vectors[:, :count]


def _directions(stack: Tensor, squares: Tensor, vectors: Tensor) -> Tensor:
    """The right singular vectors of `stack` as rows `(r, n)`, from what `_spectrum` found."""
    w, n = stack.shape
    if w >= n:
        return vectors.mT.to(stack.dtype)
    return (vectors / squares.sqrt()).mT.to(stack.dtype) @ stack
