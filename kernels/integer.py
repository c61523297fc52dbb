"""Products with a matrix of small integers, stored as bit planes, with one scale per group of columns.

Plane `p` holds bit `p` of every code, as in `clisonix.kernels.planes`, so that every width from 1 to 8 bits
takes exactly that many. The entry at row `i`, column `j` is `scales[i, j // group] * (code[i, j] - offset)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.planes import Backend, Layout, packed_matmul, packed_matmul_t
from clisonix.kernels.planes_reference import by_row, pack_bits, unpack_codes

__all__ = ["integer_dense", "integer_matmul", "integer_matmul_t", "pack_codes", "unpack_codes"]


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack integers from 0 to `2**bits - 1`.

    Args:
        codes: `(m, n)`, uint8.
        bits: 1 to 8.

    Returns:
        uint8 `(bits, m, ceil(n / 8))`.

    Raises:
        ClisonixError: a code does not fit, or they are not uint8.
    """
    if codes.dtype != torch.uint8 or not 1 <= bits <= 8 or bool((codes.short() >> bits).any()):
        raise ClisonixError(f"{codes.dtype} codes do not fit {bits} bits; give uint8 below 2**bits, bits 1 to 8.")
    return torch.stack([pack_bits((codes >> plane) & 1) for plane in range(bits)])


def integer_dense(planes: Tensor, scales: Tensor, n: int, group: int, offset: int) -> Tensor:
    """The entries `(m, n)` in the dtype of `scales`, differentiable in them."""
    levels = unpack_codes(by_row(planes), n).to(scales.dtype) - offset
    return levels * scales.repeat_interleave(group, dim=1)[:, :n]


def integer_matmul(
    x: Tensor, planes: Tensor, scales: Tensor, n: int, group: int, offset: int, *, backend: Backend = "auto"
) -> Tensor:
    """`x @ entries.T`, without unpacking more than a small part of the entries at a time.

    Args:
        x: `(..., n)`.
        planes: uint8 `(bits, m, ceil(n / 8))`, as from `pack_codes`.
        scales: `(m, ceil(n / group))`; may be of another dtype than `x`.
        n: number of columns.
        group: columns that share a scale.
        offset: the code that means zero.
        backend: as of `clisonix.kernels.planes.packed_matmul`.

    Returns:
        `(..., m)` in the dtype of `x`, differentiable in `x` and `scales` any number of times.
    """
    return packed_matmul(x, scales, planes, Layout(n, group, 1, offset), backend)


def integer_matmul_t(
    x: Tensor, planes: Tensor, scales: Tensor, n: int, group: int, offset: int, *, backend: Backend = "auto"
) -> Tensor:
    """`x @ entries`: `(..., m)` to `(..., n)`, otherwise as `integer_matmul`."""
    return packed_matmul_t(x, scales, planes, Layout(n, group, 1, offset), backend)
