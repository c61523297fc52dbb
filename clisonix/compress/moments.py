"""What calibration remembers of a weight: how its inputs are spread, and how much its outputs matter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress.layers import pad_widths
from clisonix.errors import ClisonixError

# All products of inputs are kept up to this many inputs, and up to the second number where there are as many outputs,
# so that they weigh no more than the weight; of more inputs only the products within blocks of neighbours.
FULL_COLUMNS = 2048
MOST_COLUMNS = 8192
BLOCK_COLUMNS = 128
_CHUNK_VALUES = 1 << 22
# Multiplications that one call of a convolution is worth: where all its patches would take more, evenly spaced ones
# are taken. A moment of n inputs needs a few times n positions, and patches overlap.
_CALL_PRODUCTS = 1 << 34


class Moment:
    """The running second moment E[x xᵀ] of what a weight `(m, n)` multiplies, and the importance of its outputs.

    For a convolution x is a patch: the `in_channels · prod(kernel_size)` values under the kernel, padding
    included, and in a long call only some patches are multiplied. For the rows of an embedding it is counted how
    often each is looked up. Sums are kept in float32 (float64 for float64 inputs), so their size does not depend on
    how much data there is: n² numbers for n inputs, and of a weight much wider than it is high those within blocks
    along the diagonal.

    Attributes:
        name: of the weight.
        shape: `(m, n)`.
        count: positions that were multiplied.
        looked_up: positions that were looked up in an embedding.
        sensitivity: sum over positions and outputs of squared gradient times squared output, of the module that
            holds the weight, where the gradient of the weight's own outputs cannot be seen.
        calls: how often a call had so many positions.
    """

    def __init__(self, name: str, shape: tuple[int, int], most: int | None = None) -> None:
        self.name, self.shape = name, shape
        self.count = self.looked_up = 0
        self.sensitivity = 0.0
        self.calls: Counter[int] = Counter()
        full = max(FULL_COLUMNS, min(shape[0], MOST_COLUMNS)) if most is None else most
        self.width = shape[1] if shape[1] <= full else BLOCK_COLUMNS
        self._sum: Tensor | None = None
        self._rows: Tensor | None = None
        self._squares: Tensor | None = None
        self._square_count = 0
        self._depth_squares: Tensor | None = None
        self._depth_count = 0

    @property
    def seen(self) -> bool:
        """Whether any calibration batch reached the weight."""
        return self.count + self.looked_up > 0

    @property
    def matrix(self) -> Tensor | None:
        """E[x xᵀ] `(n, n)`, or blocks `(k, b, b)` of it for a wide layer; None if nothing was multiplied."""
        return None if self._sum is None else self._sum / max(self.count, 1)

    @property
    def rows(self) -> Tensor | None:
        """`(m,)`, how often each row was looked up, or None."""
        return self._rows

    @property
    def output_weights(self) -> Tensor | None:
        """Mean square of the loss's gradient by each output `(m,)`, or None where it was not seen."""
        return None if self._squares is None else self._squares / max(self._square_count, 1)

    @property
    def depth_weights(self) -> Tensor | None:
        """The same for the columns `(n,)` of an embedding."""
        return None if self._depth_squares is None else self._depth_squares / max(self._depth_count, 1)

    def add(self, gram: Tensor, positions: int) -> None:
        """Take in the sum of `x xᵀ` over positions, or its blocks.

        Raises:
            ClisonixError: it holds NaN or infinity.
        """
        if not bool(torch.isfinite(gram.diagonal(dim1=-2, dim2=-1)).all()):
            raise ClisonixError(
                f"the input of layer {_layer(self.name)!r} is not finite (NaN or infinity) on a calibration batch; "
                "check the data and the model's weights"
            )
        self._sum = gram.clone() if self._sum is None else self._sum.add_(gram)
        self.count += positions
        self.calls[positions] += 1

    def look_up(self, places: Tensor) -> None:
        """Take in which rows of an embedding were asked for."""
        found = torch.bincount(places.reshape(-1).long(), minlength=self.shape[0])
        self._rows = found if self._rows is None else self._rows.add_(found)
        self.looked_up += places.numel()
        self.calls[places.numel()] += 1

    def weigh(self, gradient: Tensor) -> None:
        """Take in the loss's gradient by the outputs `(positions, m)`."""
        new = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square().sum(0)
        self._squares = new if self._squares is None else self._squares.add_(new)
        self._square_count += len(gradient)

    def weigh_depth(self, gradient: Tensor) -> None:
        """Take in the loss's gradient by what an embedding gave `(positions, n)`."""
        new = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square().sum(0)
        self._depth_squares = new if self._depth_squares is None else self._depth_squares.add_(new)
        self._depth_count += len(gradient)

    def gram(self, blocks: Iterator[Tensor], stands_for: int | None = None) -> tuple[Tensor, int] | None:
        """The sum of `x xᵀ` over blocks `(positions, n)` of inputs and their number; None for none.

        `stands_for` is that number where the blocks are a part of all, scaled up.
        """
        total, positions = None, 0
        for rows in blocks:
            if rows.shape[-1] != self.shape[1]:
                raise ClisonixError(
                    f"layer {_layer(self.name)!r} was given {rows.shape[-1]} inputs where its weight {self.shape} "
                    f"has {self.shape[1]} columns; leave it out with exclude="
                )
            # Half-precision products would lose the small directions; autocast must not touch these.
            with torch.autocast(rows.device.type, enabled=False):
                rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
                new = self._products(rows)
            total = new if total is None else total.add_(new)
            positions += len(rows)
        return None if total is None else (total, stands_for or positions)

    def worth(self) -> int:
        """Patches of one call that are worth multiplying."""
        return max(_CALL_PRODUCTS // (self.shape[1] * self.width), 1)

    def _products(self, rows: Tensor) -> Tensor:
        n = self.shape[1]
        if self.width == n:
            return rows.mT @ rows
        parts = F.pad(rows, (0, -n % self.width)).view(len(rows), -1, self.width).transpose(0, 1)
        return torch.bmm(parts.mT, parts)


def flat_blocks(x: Tensor) -> Iterator[Tensor]:
    """`(..., n)` as blocks `(positions, n)` of bounded size."""
    rows = x.reshape(-1, x.shape[-1])
    yield from (block for block in torch.split(rows, max(1, _CHUNK_VALUES // max(x.shape[-1], 1))) if len(block))


def patch_blocks(x: Tensor, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, most: int | None = None) -> Iterator[Tensor]:
    """Patches that `conv` sees of `(batch, channels, *size)`, as blocks `(positions, channels · prod(kernel))`.

    With `most`, about so many of them, evenly spaced in every sample, each scaled so that their sum of squares stands
    for that of all.
    """
    dims = len(conv.kernel_size)
    x = x if x.ndim == dims + 2 else x[None]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, pad_widths(conv), mode=mode)
    for axis, (size, step, gap) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    x = x.movedim(1, 1 + dims)  # (batch, *out, channels, *kernel)
    if not x.numel():
        return
    positions = math.prod(x.shape[: 1 + dims])
    if most is not None and positions > most:
        yield from _some_patches(x, dims, positions, most)
        return
    for samples in torch.split(x, max(1, _CHUNK_VALUES // x[0].numel())):
        for lines in torch.split(samples, max(1, _CHUNK_VALUES // samples[:, 0].numel()), dim=1):
            rows = lines.reshape(-1, conv.in_channels * math.prod(conv.kernel_size))
            if len(rows):
                yield rows


def _some_patches(x: Tensor, dims: int, positions: int, most: int) -> Iterator[Tensor]:
    """Every so manieth patch of `(batch, *out, channels, *kernel)`."""
    places = torch.linspace(0, positions - 1, most, dtype=torch.float64).long().to(x.device)
    indices = torch.unravel_index(places, x.shape[: 1 + dims])
    scale = math.sqrt(positions / len(places))
    columns = math.prod(x.shape[1 + dims :])
    for some in zip(*(torch.split(index, max(1, _CHUNK_VALUES // columns)) for index in indices), strict=True):
        yield x[some].reshape(len(some[0]), columns) * scale


def _layer(name: str) -> str:
    """The layer of a weight, as its errors name it."""
    return name.removesuffix(".weight")
