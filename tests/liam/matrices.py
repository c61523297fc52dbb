"""The one list of matrices that every law is tested on: a new form is tested by adding a line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clisonix.kernels.binary import pack_signs
from clisonix.liam import (
    Batch,
    Binary,
    BlockDiagonal,
    BlockSparse,
    Cat,
    Dense,
    Diagonal,
    Integer,
    LatentBinary,
    LatentTernary,
    LowRank,
    Matrix,
    Permutation,
    Product,
    Scaled,
    SemiSparse,
    Sparse,
    Sum,
    Ternary,
    Transpose,
)

Make = Callable[[int, int, torch.dtype], Matrix]


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def lowrank(m: int, n: int, dtype: torch.dtype, rank: int = 3) -> LowRank:
    return LowRank(randn(m, rank, dtype=dtype, seed=1), randn(rank, n, dtype=dtype, seed=2))


def binary(m: int, n: int, dtype: torch.dtype) -> Binary:
    return Binary(pack_signs(randn(m, n, seed=3) >= 0), randn(m, dtype=dtype, seed=4), n)


def integer(m: int, n: int, dtype: torch.dtype) -> Integer:
    # Groups of 4 do not divide most of the sizes, and 3 bits do not divide a byte.
    return Integer.rounded(randn(m, n, dtype=dtype, seed=9), bits=3, group=4)


def sparse(m: int, n: int, dtype: torch.dtype) -> Sparse:
    entries = randn(m, n, dtype=dtype, seed=5)
    return Sparse.from_tensor(entries * (randn(m, n, seed=6) > 0.6))


def blocks(m: int, n: int, dtype: torch.dtype) -> BlockSparse:
    # Blocks that are not square and reach over the edges.
    return BlockSparse.largest(randn(m, n, dtype=dtype, seed=11), 0.5, (4, 3))


def two_of_four(m: int, n: int, dtype: torch.dtype) -> SemiSparse:
    return SemiSparse.nearest(randn(m, n, dtype=dtype, seed=12))


def dense(m: int, n: int, dtype: torch.dtype) -> Dense:
    return Dense(randn(m, n, dtype=dtype, seed=7))


def diagonal(n: int, dtype: torch.dtype) -> Diagonal:
    return Diagonal(randn(n, dtype=dtype, seed=8))


def permutation(n: int, dtype: torch.dtype, seed: int = 12) -> Permutation:
    index = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return Permutation(index.int() if seed % 2 else index, dtype)


def batch(m: int, n: int, dtype: torch.dtype) -> Batch:
    g = math.gcd(m, n)
    return Batch(randn(g, m // max(g, 1), n // max(g, 1), dtype=dtype, seed=14))


def corner_blocks(m: int, n: int, dtype: torch.dtype) -> BlockDiagonal:
    top, left = m // 2, n // 2
    return BlockDiagonal(dense(top, left, dtype), binary(m - top, n - left, dtype))


def some_places(m: int, n: int, dtype: torch.dtype) -> Matrix:
    whole = Sum(dense(m + 3, n + 2, dtype), binary(m + 3, n + 2, dtype), integer(m + 3, n + 2, dtype))
    rows = torch.randint(m + 3, (m,), generator=torch.Generator().manual_seed(15))
    return whole[rows, 2:]


FORMS: dict[str, Make] = {
    "dense": dense,
    "lowrank": lowrank,
    "lowrank of rank 0": lambda m, n, dtype: lowrank(m, n, dtype, rank=0),
    "binary": binary,
    "integer of 3 bits": integer,
    "ternary": lambda m, n, dtype: Ternary.nearest(randn(m, n, dtype=dtype, seed=10)),
    "sparse": sparse,
    "sparse without values": lambda m, n, dtype: Sparse.from_tensor(torch.zeros(m, n, dtype=dtype)),
    "blocks": blocks,
    "no blocks": lambda m, n, dtype: BlockSparse.from_tensor(torch.zeros(m, n, dtype=dtype), 2),
    "two of four": two_of_four,
    "sum": lambda m, n, dtype: Sum(lowrank(m, n, dtype), sparse(m, n, dtype), binary(m, n, dtype)),
    "product": lambda m, n, dtype: Product(dense(m, 5, dtype), binary(5, n, dtype)),
    "diagonal product": lambda m, n, dtype: diagonal(m, dtype) @ binary(m, n, dtype) @ diagonal(n, dtype),
    "transpose": lambda m, n, dtype: Transpose(lowrank(n, m, dtype)),
    "transposed sparse": lambda m, n, dtype: sparse(n, m, dtype).T,
    "transposed blocks": lambda m, n, dtype: blocks(n, m, dtype).T,
    "transposed two of four": lambda m, n, dtype: two_of_four(n, m, dtype).T,
    "transposed binary": lambda m, n, dtype: binary(n, m, dtype).T,
    "scaled": lambda m, n, dtype: Scaled(dense(m, n, dtype), -1.5),
    "scaled by a parameter": lambda m, n, dtype: (
        lowrank(m, n, dtype) * torch.nn.Parameter(torch.tensor(0.5, dtype=dtype))
    ),
}

FORMS |= {
    "permuted": lambda m, n, dtype: permutation(m, dtype) @ dense(m, n, dtype) @ permutation(n, dtype, seed=13),
    "stacked": lambda m, n, dtype: Cat(dense(m // 2, n, dtype), lowrank(m - m // 2, n, dtype), dim=0),
    "side by side": lambda m, n, dtype: Cat(binary(m, n // 3, dtype), integer(m, n - n // 3, dtype), dim=1),
    "corner blocks": corner_blocks,
    "equal small blocks": lambda m, n, dtype: (
        BlockDiagonal(*[dense(1, 1, dtype) for _ in range(min(m, n))])
        if m == n > 0
        else Cat(corner_blocks(m, n, dtype), dense(m, 0, dtype), dim=1)
    ),
    "batch": batch,
    "slice": lambda m, n, dtype: lowrank(m + 2, 2 * n, dtype)[1 : m + 1, ::2],
    "slice by places": some_places,
    "slice of a product": lambda m, n, dtype: (binary(m + 1, 5, dtype) @ sparse(5, n + 1, dtype))[1:, list(range(n))],
    "packed lowrank": lambda m, n, dtype: lowrank(m, n, dtype).quantize(bits=4, group=4),
    "latent binary": lambda m, n, dtype: LatentBinary(
        randn(m, n, dtype=dtype, seed=16), randn(m, dtype=dtype, seed=17)
    ),
    "latent ternary": lambda m, n, dtype: LatentTernary.nearest(randn(m, n, dtype=dtype, seed=18)),
}

# Square forms only have one size to choose.
SHAPES = [(6, 9), (9, 6), (1, 7), (7, 1), (8, 16), (17, 3)]
EMPTY = [(0, 4), (4, 0), (0, 0)]
