"""A matrix of signs, one bit each, with one scale per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import binary_matmul, binary_matmul_t, pack_signs, unpack_signs
from clisonix.liam.matrix import as_parameter, check_dense_float, check_finite, check_size
from clisonix.liam.tiled import Packed

if TYPE_CHECKING:
    from clisonix.liam.latent import LatentBinary


class Binary(Packed):
    """`diag(scales) @ signs`, with the signs packed eight to a byte.

    The scales learn; the signs are fixed. Products unpack no more than a small part at a time.

    Args:
        packed: uint8 `(m, ceil(n / 8))`, as from `clisonix.kernels.binary.pack_signs`.
        scales: `(m,)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        columns: `n`, which the packed bytes alone do not tell.
    """

    BITS = "packed"
    packed: Tensor

    def __init__(self, packed: Tensor, scales: Tensor, columns: int) -> None:
        super().__init__()
        self.scales = as_parameter(scales, "scales", 1)
        expected = (scales.shape[0], -(-columns // 8))
        if packed.dtype != torch.uint8 or packed.shape != expected or packed.device != scales.device:
            raise ClisonixError(
                f"packed is {packed.dtype} {tuple(packed.shape)} on {packed.device}; {scales.shape[0]} scales on "
                f"{scales.device} and {columns} columns need torch.uint8 {expected} beside them."
            )
        self.register_buffer("packed", packed.contiguous())
        self.columns = columns

    @classmethod
    @torch.no_grad()
    def nearest(cls, weight: Tensor) -> Binary:
        """The closest matrix of this form: the sign of every entry and the mean size of each row.

        Args:
            weight: `(m, n)`, finite floating point. A zero counts as positive.

        The least-squares solution for one scale a row: Rastegari et al., "XNOR-Net", ECCV 2016, eq. 6.
        """
        check_dense_float(weight, "weight", 2)
        check_finite(weight, "weight")
        wide = torch.promote_types(weight.dtype, torch.float32)
        scales = weight.abs().sum(1, dtype=wide) / max(weight.shape[1], 1)
        return cls(pack_signs(weight >= 0), scales.to(weight.dtype), weight.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.columns

    def forward(self, x: Tensor) -> Tensor:
        return binary_matmul(check_size(x, -1, self, self.columns), self.packed, self.scales, self.columns)

    def adjoint(self, x: Tensor) -> Tensor:
        check_size(x, -1, self, self.scales.shape[0])
        return binary_matmul_t(x, self.packed, self.scales, self.columns)

    def unpack(self) -> LatentBinary:
        """The same matrix with signs that learn; `.pack()` of it is packed again."""
        from clisonix.liam.latent import LatentBinary

        return LatentBinary.of(self)

    def by_row(self) -> Tensor:
        return super().by_row()[0] if self.is_tiled else self.packed

    def bits_of(self, rows: Tensor) -> Tensor:
        found = super().bits_of(rows)
        return found[0] if self.is_tiled else found

    def dense(self) -> Tensor:
        return unpack_signs(self.by_row(), self.columns, self.scales.dtype) * self.scales[:, None]
