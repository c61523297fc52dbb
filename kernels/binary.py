"""Products with a matrix of signs, packed eight to a byte.

Bit `j` of byte `i` of a row is column `8·i + j`; a set bit is +1, a clear one -1: a single plane of
`clisonix.kernels.planes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.planes import Backend, Layout, packed_matmul, packed_matmul_t
from clisonix.kernels.planes_reference import pack_bits, unpack_bits


def pack_signs(signs: Tensor) -> Tensor:
    """Pack a matrix of ±1, or of booleans where true means +1.

    Args:
        signs: `(m, n)`.

    Returns:
        uint8 `(m, ceil(n / 8))`.

    Raises:
        ClisonixError: an entry is neither +1 nor -1.
    """
    if signs.ndim != 2:
        raise ClisonixError(f"Signs of shape {tuple(signs.shape)} cannot be packed; give a matrix (m, n).")
    if signs.dtype != torch.bool:
        if not bool((signs.abs() == 1).all()):
            raise ClisonixError("Only +1 and -1 can be packed; take `w >= 0` of a matrix with other entries.")
        signs = signs > 0
    return pack_bits(signs)


def unpack_signs(packed: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix `(m, n)` of ±1 in `dtype` that `pack_signs` packed into `packed (m, ceil(n / 8))`."""
    return unpack_bits(packed, n).to(dtype).mul_(2).sub_(1)


def binary_matmul(x: Tensor, packed: Tensor, scales: Tensor, n: int, *, backend: Backend = "auto") -> Tensor:
    """`x @ (scales[:, None] * signs).T`, without unpacking more than a small part of the signs at a time.

    Args:
        x: `(..., n)`.
        packed: uint8 `(m, ceil(n / 8))`, as from `pack_signs`.
        scales: `(m,)`.
        n: number of columns.
        backend: as of `clisonix.kernels.planes.packed_matmul`.

    Returns:
        `(..., m)`, differentiable in `x` and `scales` any number of times.
    """
    return packed_matmul(x, scales, packed, _layout(n), backend)


def binary_matmul_t(x: Tensor, packed: Tensor, scales: Tensor, n: int, *, backend: Backend = "auto") -> Tensor:
    """`x @ (scales[:, None] * signs)`: `(..., m)` to `(..., n)`, otherwise as `binary_matmul`."""
    return packed_matmul_t(x, scales, packed, _layout(n), backend)


def _layout(n: int) -> Layout:
    return Layout(n, group=max(n, 1), step=2, offset=1)
