"""Matrices of small integers: 2 to 8 bits with group scales, and the three levels -1, 0, +1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.integer import integer_dense, integer_matmul, integer_matmul_t, pack_codes
from clisonix.liam.matrix import as_parameter, check_dense_float, check_finite, check_size
from clisonix.liam.tiled import Packed

if TYPE_CHECKING:
    from clisonix.liam.latent import LatentTernary


class Integer(Packed):
    """`scales[i, j // group] * level[i, j]` with levels from `-2**(bits-1)` to `2**(bits-1) - 1`.

    The scales learn; the levels are fixed. Products unpack no more than a small part at a time.

    Args:
        planes: uint8 `(bits, m, ceil(n / 8))`, as from `clisonix.kernels.integer.pack_codes`.
        scales: `(m, ceil(n / group))`. A plain tensor becomes a parameter (detached); a parameter is shared.
        columns: `n`, which the packed bytes alone do not tell.
        group: columns that share a scale.
    """

    BITS = "planes"
    planes: Tensor

    def __init__(self, planes: Tensor, scales: Tensor, columns: int, group: int) -> None:
        super().__init__()
        self.scales = as_parameter(scales, "scales", 2)
        m = scales.shape[0]
        fits = planes.ndim == 3 and planes.shape[1:] == (m, -(-columns // 8)) and 1 <= planes.shape[0] <= 8
        if planes.dtype != torch.uint8 or not fits or planes.device != scales.device:
            raise ClisonixError(
                f"planes is {planes.dtype} {tuple(planes.shape)} on {planes.device}; {m} rows of scales on "
                f"{scales.device} and {columns} columns need torch.uint8 (bits, {m}, {-(-columns // 8)}) "
                "beside them."
            )
        if group < 1 or scales.shape[1] != -(-columns // group):
            raise ClisonixError(
                f"scales is {tuple(scales.shape)}, but {columns} columns in groups of {group} need "
                "ceil(columns / group) scales in each row, and groups of at least 1."
            )
        self.register_buffer("planes", planes.contiguous())
        self.columns = columns
        self.group = group

    @classmethod
    @torch.no_grad()
    def rounded(cls, weight: Tensor, bits: int, group: int = 64) -> Integer:
        """`weight` rounded to the nearest level, with the scale of each group chosen for least squares.

        Several scales are tried for each group, from one that reaches its largest entry to one that clips
        it at half; the best is then refitted to the levels it gave. The squared error is never more than
        that of rounding with the scale `max|w| / (2**(bits-1) - 1)`; it need not be the least possible.

        Args:
            weight: `(m, n)`, finite floating point.
            bits: 2 to 8.
            group: columns that share a scale; the last group may be shorter.
        """
        check_dense_float(weight, "weight", 2)
        if not 2 <= bits <= 8 or group < 1:
            raise ClisonixError(f"bits={bits} with group={group} is no format; give 2 to 8 bits, group of 1 or more.")
        m, n = weight.shape
        wide = check_finite(weight, "weight").to(torch.promote_types(weight.dtype, torch.float32))
        # Zeros that fill up the last group are exact at any scale, so they change no choice.
        groups = torch.nn.functional.pad(wide, (0, -n % group)).reshape(m, -(-n // group), group)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        sizes, places = groups.abs().max(dim=-1, keepdim=True)
        # There is one more level below zero than above: a scale of the right sign puts the largest there.
        reach = torch.where(groups.gather(-1, places) > 0, -sizes, sizes) / -low
        best, error = torch.zeros_like(groups), torch.full_like(reach, torch.inf)
        # The first is what plain rounding uses, so the result is never worse than that.
        for scale in (sizes / high, *(reach * clip for clip in torch.linspace(0.5, 1.0, 26).tolist())):
            scale = torch.where(scale == 0, 1.0, scale)
            levels = (groups / scale).round().clamp(low, high)
            new = (groups - scale * levels).square().sum(-1, keepdim=True)
            best = torch.where(new < error, levels, best)
            error = torch.minimum(new, error)
        scales = (groups * best).sum(-1) / best.square().sum(-1).clamp(min=1)
        codes = (best - low).to(torch.uint8).flatten(1)[:, :n]
        return cls(pack_codes(codes, bits), scales.to(weight.dtype), n, group)

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.columns

    @property
    def bits(self) -> int:
        """Bits an entry takes, scales not counted."""
        return self.planes.shape[0]

    @property
    def offset(self) -> int:
        """The code that means zero."""
        return 1 << (self.bits - 1)

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, -1, self, self.columns)
        return integer_matmul(x, self.planes, self.scales, self.columns, self.group, self.offset)

    def adjoint(self, x: Tensor) -> Tensor:
        check_size(x, -1, self, self.scales.shape[0])
        return integer_matmul_t(x, self.planes, self.scales, self.columns, self.group, self.offset)

    def dense(self) -> Tensor:
        return integer_dense(self.planes, self.scales, self.columns, self.group, self.offset)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.bits} bits in groups of {self.group}"


class Ternary(Integer):
    """`diag(scales) @ levels` with levels -1, 0 and +1, at 2 bits each.

    Args:
        planes: uint8 `(2, m, ceil(n / 8))` of the codes `level + 1`.
        scales: `(m, 1)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        columns: `n`.
    """

    def __init__(self, planes: Tensor, scales: Tensor, columns: int) -> None:
        super().__init__(planes, scales, columns, max(columns, 1))
        if planes.shape[0] != 2:
            raise ClisonixError(f"planes holds {planes.shape[0]} bits an entry; three levels take 2.")

    @property
    def offset(self) -> int:
        return 1

    def unpack(self) -> LatentTernary:
        """The same matrix with levels that learn; `.pack()` of it is packed again."""
        from clisonix.liam.latent import LatentTernary

        return LatentTernary.of(self)

    @classmethod
    @torch.no_grad()
    def nearest(cls, weight: Tensor) -> Ternary:
        """The closest matrix of this form.

        For each row the best support is its `k` largest entries, for the `k` that maximises their sum
        squared over `k`, and the best scale is their mean: Li, Zhang, Liu, "Ternary Weight Networks"
        (2016), eq. 4, solved exactly by sorting instead of by their threshold.

        Args:
            weight: `(m, n)`, finite floating point.
        """
        check_dense_float(weight, "weight", 2)
        m, n = weight.shape
        wide = check_finite(weight, "weight").to(torch.promote_types(weight.dtype, torch.float32))
        if n == 0:
            return cls(weight.new_empty(2, m, 0, dtype=torch.uint8), weight.new_zeros(m, 0), 0)
        sums, counts = (
            wide.abs().sort(dim=1, descending=True)[0].cumsum(1),
            torch.arange(1, n + 1, device=wide.device),
        )
        kept = (sums.square() / counts.to(sums)).argmax(1, keepdim=True)
        ranks = wide.abs().argsort(dim=1, descending=True).argsort(dim=1)
        levels = torch.where(ranks <= kept, wide.sign(), 0.0)
        scales = sums.gather(1, kept) / (kept + 1)
        return cls(pack_codes((levels + 1).to(torch.uint8), 2), scales.to(weight.dtype), n)
