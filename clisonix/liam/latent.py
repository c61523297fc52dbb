"""Packed matrices that learn: a float behind every sign, and gradients that pass straight through it.

>>> import torch
>>> from clisonix.liam import Binary, pack, unpack
>>> a = 2 * Binary.nearest(torch.randn(8, 16))
>>> learner = unpack(a)                      # train `learner` like any module ...
>>> packed = pack(learner)                   # ... and pack the signs it has found
>>> torch.equal(packed.dense(), a.dense()), packed.nbytes == a.nbytes
(True, True)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import pack_signs, unpack_signs
from clisonix.kernels.integer import pack_codes, unpack_codes
from clisonix.liam.binary import Binary
from clisonix.liam.integer import Ternary
from clisonix.liam.matrix import Matrix, as_parameter, check_dense_float, check_finite, check_input
from clisonix.liam.rebuild import rebuild

# Where the latent of an unpacked level starts: half way from a change of sign to where gradients are cut.
START = 0.5


def unpack(matrix: Matrix) -> Matrix:
    """`matrix` with every `Binary` and `Ternary` in it, however deep, replaced by one that trains its levels.

    The new matrix shares the scales and every other tensor with the old one. What has no latent form stays
    as it is; a matrix with nothing to unpack is returned itself.
    """
    if isinstance(matrix, Binary):
        return LatentBinary.of(matrix)
    if isinstance(matrix, Ternary):
        return LatentTernary.of(matrix)
    return rebuild(matrix, unpack)


def pack(matrix: Matrix) -> Matrix:
    """`matrix` with every latent form in it packed: the reverse of `unpack`, sharing tensors like it.

    Raises:
        ClisonixError: a latent is NaN or infinite, so it has no level.
    """
    return matrix.pack() if isinstance(matrix, Latent) else rebuild(matrix, pack)


class Latent(Matrix):
    """`scales * level(latent)`, whose gradient treats `level` as the identity near zero.

    The straight-through estimator with its saturation at 1: Hubara et al., "Binarized Neural Networks",
    NeurIPS 2016. There a latent beyond ±1 gets no gradient and never comes back unless it is clipped
    after every step; here it gets those gradients that lead it back, so that any optimiser will do.

    Args:
        latent: `(m, n)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        scales: one for each row, in the shape that the packed form has.
    """

    def __init__(self, latent: Tensor, scales: Tensor, ndim: int) -> None:
        super().__init__()
        self.latent = as_parameter(latent, "latent", 2)
        self.scales = as_parameter(scales, "scales", ndim)
        if scales.shape[0] != latent.shape[0] or scales.dtype != latent.dtype or scales.device != latent.device:
            raise ClisonixError(
                f"latent is {tuple(latent.shape)} {latent.dtype} on {latent.device} and scales is "
                f"{tuple(scales.shape)} {scales.dtype} on {scales.device}; give a scale for each row, alike."
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.latent.shape[0], self.latent.shape[1]

    @abstractmethod
    def levels(self) -> Tensor:
        """The level of each entry `(m, n)`, without a gradient; NaN where the latent is."""

    @abstractmethod
    def pack(self) -> Matrix:
        """The packed matrix of the same entries, sharing the scales."""

    def forward(self, x: Tensor) -> Tensor:
        latent = self.latent
        return F.linear(check_input(x, -1, self, latent.shape[1], latent), self.dense())

    def adjoint(self, x: Tensor) -> Tensor:
        latent = self.latent
        return check_input(x, -1, self, latent.shape[0], latent) @ self.dense()


class LatentBinary(Latent):
    """A `Binary` in training: the entries are `scales[i] * sign(latent[i, j])`, a zero counting as positive.

    Args:
        latent: `(m, n)`.
        scales: `(m,)`.
    """

    def __init__(self, latent: Tensor, scales: Tensor) -> None:
        super().__init__(latent, scales, 1)

    @classmethod
    @torch.no_grad()
    def nearest(cls, weight: Tensor) -> LatentBinary:
        """The start of training for `weight (m, n)`: `Binary.nearest` of it, each latent as sure as its entry."""
        return cls(_spread(weight), Binary.nearest(weight).scales)

    @classmethod
    @torch.no_grad()
    def of(cls, matrix: Binary) -> LatentBinary:
        """The signs of `matrix`, all equally sure, with its scales shared."""
        signs = unpack_signs(matrix.by_row(), matrix.columns, matrix.dtype)
        return cls(START * signs, matrix.scales)

    @torch.no_grad()
    def levels(self) -> Tensor:
        return _keep_nan(torch.where(self.latent >= 0, 1.0, -1.0), self.latent)

    @torch.no_grad()
    def pack(self) -> Binary:
        return Binary(pack_signs(check_finite(self.latent, "latent") >= 0), self.scales, self.shape[1])

    def dense(self) -> Tensor:
        return _straight_through(self.latent, self.levels()) * self.scales[:, None]


class LatentTernary(Latent):
    """A `Ternary` in training: latents below a threshold count as zero.

    The threshold is 0.7 times the mean size of the row, which is near the best one for weights that are
    normally or evenly distributed: Li, Zhang, Liu, "Ternary Weight Networks" (2016).

    Args:
        latent: `(m, n)`.
        scales: `(m, 1)`; `(m, 0)` if there are no columns.
    """

    def __init__(self, latent: Tensor, scales: Tensor) -> None:
        super().__init__(latent, scales, 2)

    @classmethod
    @torch.no_grad()
    def nearest(cls, weight: Tensor) -> LatentTernary:
        """The start of training for `weight (m, n)`: its levels by the threshold, and the scales that fit them."""
        start = cls(_spread(weight), weight.new_ones(weight.shape[0], min(weight.shape[1], 1)))
        levels = start.levels()
        kept = levels.abs().sum(1, keepdim=True).clamp(min=1)
        scales = (weight * levels).sum(1, keepdim=True) / kept
        return cls(start.latent, scales[:, : start.scales.shape[1]])

    @classmethod
    @torch.no_grad()
    def of(cls, matrix: Ternary) -> LatentTernary:
        """The levels of `matrix`, all equally sure, with its scales shared."""
        levels = unpack_codes(matrix.by_row(), matrix.columns).to(matrix.dtype) - 1
        return cls(START * levels, matrix.scales)

    @torch.no_grad()
    def levels(self) -> Tensor:
        sizes = self.latent.abs()
        threshold = 0.7 * sizes.mean(1, keepdim=True)
        # A row of zeros has a threshold of zero and no level.
        return _keep_nan(torch.where(sizes > threshold, self.latent.sign(), 0.0), self.latent)

    @torch.no_grad()
    def pack(self) -> Ternary:
        check_finite(self.latent, "latent")
        return Ternary(pack_codes((self.levels() + 1).to(torch.uint8), 2), self.scales, self.shape[1])

    def dense(self) -> Tensor:
        return _straight_through(self.latent, self.levels()) * self.scales


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(latent: Tensor, levels: Tensor) -> Tensor:
        return levels.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401 - torch's own
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (latent,) = ctx.saved_tensors
        inwards = (grad > 0) == (latent > 0)
        return torch.where((latent.abs() <= 1) | inwards, grad, 0.0), None


def _straight_through(latent: Tensor, levels: Tensor) -> Tensor:
    through: Tensor = _StraightThrough.apply(latent, levels)  # type: ignore[no-untyped-call]
    return through


def _spread(weight: Tensor) -> Tensor:
    """Latents in ±1 with the signs of `weight`, half of the mean size of a row at one half."""
    check_dense_float(weight, "weight", 2)
    wide = check_finite(weight, "weight").to(torch.promote_types(weight.dtype, torch.float32))
    sizes = wide.abs().mean(1, keepdim=True)
    return (START * wide / torch.where(sizes > 0, sizes, 1.0)).clamp(-1, 1).to(weight.dtype)


def _keep_nan(levels: Tensor, latent: Tensor) -> Tensor:
    return torch.where(latent.isnan(), latent, levels.to(latent.dtype))
