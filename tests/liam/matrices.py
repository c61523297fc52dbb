"""The one list of matrices that every law is tested on: a new form is tested by adding a line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clisonix.kernels.binary import pack_signs
from clisonix.liam import (
    Binary,
    Dense,
    Diagonal,
    Integer,
    LowRank,
    Matrix,
    Product,
    Scaled,
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


def dense(m: int, n: int, dtype: torch.dtype) -> Dense:
    return Dense(randn(m, n, dtype=dtype, seed=7))


def diagonal(n: int, dtype: torch.dtype) -> Diagonal:
    return Diagonal(randn(n, dtype=dtype, seed=8))


FORMS: dict[str, Make] = {
    "dense": dense,
    "lowrank": lowrank,
    "lowrank of rank 0": lambda m, n, dtype: lowrank(m, n, dtype, rank=0),
    "binary": binary,
    "integer of 3 bits": integer,
    "ternary": lambda m, n, dtype: Ternary.nearest(randn(m, n, dtype=dtype, seed=10)),
    "sparse": sparse,
    "sparse without values": lambda m, n, dtype: Sparse.from_tensor(torch.zeros(m, n, dtype=dtype)),
    "sum": lambda m, n, dtype: Sum(lowrank(m, n, dtype), sparse(m, n, dtype), binary(m, n, dtype)),
    "product": lambda m, n, dtype: Product(dense(m, 5, dtype), binary(5, n, dtype)),
    "diagonal product": lambda m, n, dtype: diagonal(m, dtype) @ binary(m, n, dtype) @ diagonal(n, dtype),
    "transpose": lambda m, n, dtype: Transpose(lowrank(n, m, dtype)),
    "transposed sparse": lambda m, n, dtype: sparse(n, m, dtype).T,
    "transposed binary": lambda m, n, dtype: binary(n, m, dtype).T,
    "scaled": lambda m, n, dtype: Scaled(dense(m, n, dtype), -1.5),
    "scaled by a parameter": lambda m, n, dtype: (
        lowrank(m, n, dtype) * torch.nn.Parameter(torch.tensor(0.5, dtype=dtype))
    ),
}

# Square forms only have one size to choose.
SHAPES = [(6, 9), (9, 6), (1, 7), (7, 1), (8, 16), (17, 3)]
EMPTY = [(0, 4), (4, 0), (0, 0)]
