"""Convolutions whose weight is a matrix of the algebra."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress.layers.base import Dense, LiamLayer, check_bias, parameter_of, saving
from clisonix.compress.layers.products import factors, times
from clisonix.errors import ClisonixError
from clisonix.liam.dense import Dense as DenseMatrix
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix

# An ordinary convolution; nn.modules.conv._ConvNd is its private base class.
Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONV_TYPES: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
_CONV_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# Up to so many outputs of each channel, patches times the packed weight take less time than unpacking it.
FEW_POSITIONS = 32


class LiamConv(LiamLayer, nn.Module):
    """`nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` (groups=1) whose flattened weight is a `Matrix`.

    Of a low rank it computes a convolution with `rank` output channels by `right`, seen as `(rank, in_channels,
    *kernel)`, followed by a pointwise convolution by `left`. This is the channel decomposition of Zhang et al.,
    "Accelerating Very Deep Convolutional Networks" (arXiv 1505.06798). Other forms multiply the patches where
    there are few of them, and are unpacked for the length of one call where there are many.

    Args:
        weight: `(out_channels, in_channels · prod(kernel_size))`, the dense weight with its last axes flattened.
        bias: `(out_channels,)` or None. A parameter is shared, not copied.
        like: the convolution whose geometry (kernel, stride, padding, dilation) is taken over.
        dtype: of the ordinary layer, where `weight` is stored in another one.
    """

    bias: nn.Parameter | None

    def __init__(
        self, weight: Matrix, bias: nn.Parameter | None, *, like: Conv, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_bias(bias, weight)
        expected = (like.out_channels, like.in_channels * math.prod(like.kernel_size))
        if weight.shape != expected or like.groups != 1:
            raise ClisonixError(
                f"the weight is {weight.shape} for a convolution with groups={like.groups} that needs "
                f"{expected}; give its flattened weight, with groups=1"
            )
        self.in_channels, self.out_channels, self.groups = like.in_channels, like.out_channels, like.groups
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self._pad_widths = pad_widths(like)
        self.weight = weight
        self.register_parameter("bias", bias)
        self.keep_dtype(dtype, weight)

    def forward(self, input: Tensor) -> Tensor:
        """`(batch, in_channels, *size)` to `(batch, out_channels, *out)`; the batch axis may be left out."""
        batched = input.ndim == len(self.kernel_size) + 2
        x = input if batched else input[None]
        if self.padding_mode != "zeros":
            x = F.pad(x, self._pad_widths, mode=self.padding_mode)
        y = self._convolved(self.weight, x, self.bias)
        return y if batched else y[0]

    def _convolved(self, weight: Matrix | Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(weight, LowRank):
            left, right = factors(weight)
            return self._pointwise(left, self._convolved(right, x, None), bias)
        if isinstance(weight, Matrix) and not isinstance(weight, DenseMatrix) and self._positions(x) <= FEW_POSITIONS:
            return self._biased(times(weight, self._patches(x)).movedim(-1, 1), bias)
        return self._dense(weight.dense() if isinstance(weight, Matrix) else weight, x, bias)

    def _pointwise(self, weight: Matrix | Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        dims = len(self.kernel_size)
        if isinstance(weight, Matrix):
            return self._biased(times(weight, x.movedim(1, -1)).movedim(-1, 1), bias)
        entries = weight.to(x.dtype).reshape(*weight.shape, *(1,) * dims)
        return _CONV_FUNCTIONS[dims](x, entries, None if bias is None else bias.to(x.dtype))

    def _biased(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y + bias.to(y.dtype).view(-1, *(1,) * len(self.kernel_size))

    def _dense(self, entries: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            padding = (0,) * len(self.kernel_size)
        if not torch.is_autocast_enabled(x.device.type):
            entries = entries.to(x.dtype)
        entries = entries.reshape(-1, self.in_channels, *self.kernel_size)
        convolve = _CONV_FUNCTIONS[len(self.kernel_size)]
        return convolve(x, entries, bias, self.stride, padding, self.dilation)

    def _positions(self, x: Tensor) -> int:
        """How many outputs each channel has, the batch included."""
        widths = self._pad_widths[::-1] if self.padding_mode == "zeros" else [0] * len(self._pad_widths)
        count = x.shape[0]
        for axis, (kernel, stride, gap) in enumerate(zip(self.kernel_size, self.stride, self.dilation, strict=True)):
            padded = x.shape[2 + axis] + widths[2 * axis] + widths[2 * axis + 1]
            count *= max(0, (padded - gap * (kernel - 1) - 1) // stride + 1)
        return count

    def _patches(self, x: Tensor) -> Tensor:
        if self.padding_mode == "zeros" and any(self._pad_widths):
            x = F.pad(x, self._pad_widths)
        return patches(x, self.kernel_size, self.stride, self.dilation)

    @torch.no_grad()
    def expand(self, made: Dense | None = None) -> nn.Module:
        layer = _CONV_TYPES[len(self.kernel_size)](
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            dilation=self.dilation,  # type: ignore[arg-type]
            padding_mode=self.padding_mode,
            bias=False,
            device="meta",
        )
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        layer.weight = parameter_of(self, self.weight, shape, made)
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0,) * len(self.kernel_size), "valid"):
            text += f", padding={self.padding!r}, padding_mode={self.padding_mode!r}"
        if any(step != 1 for step in self.dilation):
            text += f", dilation={self.dilation}"
        return f"{text}, bias={self.bias is not None}, {saving(self.weight)}"


def patches(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """What a convolution multiplies: padded `(batch, channels, *size)` to `(batch, *out, channels · kernel)`."""
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x.movedim(1, 1 + len(kernel)).flatten(1 + len(kernel))


def pad_widths(conv: Conv | LiamConv) -> list[int]:
    """What `conv` adds before and after each axis, last axis first, as `F.pad` takes it."""
    if conv.padding == "valid":
        return [0] * (2 * len(conv.kernel_size))
    widths: list[int] = []
    for axis in reversed(range(len(conv.kernel_size))):
        if isinstance(conv.padding, str):  # "same": an odd total puts the extra sample at the end
            total = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
            widths += [total // 2, total - total // 2]
        else:
            widths += [conv.padding[axis]] * 2
    return widths
