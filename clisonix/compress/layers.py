"""The layers of a compressed model: ordinary modules whose weight is a `Matrix`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.errors import ClisonixError
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


class LiamLinear(nn.Module):
    """`nn.Linear` whose weight is a `Matrix`.

    Args:
        weight: `(out_features, in_features)`.
        bias: `(out_features,)` or None. A parameter is shared, not copied.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: Matrix, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        _check_bias(bias, weight)
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        y: Tensor = self.weight(x)
        # Autocast runs the products in low precision; a float32 bias would silently undo that.
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def expand(self) -> nn.Linear:
        """The ordinary layer with the same map, detached; the bias is shared."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight.dense().clone(), requires_grad=_trainable(self.weight))
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}{_saving(self)}"


class LiamConv(nn.Module):
    """`nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` (groups=1) whose flattened weight is a `LowRank`.

    It computes a convolution with `rank` output channels by `right`, seen as `(rank, in_channels, *kernel)`,
    followed by a pointwise convolution by `left`. This is the channel decomposition of Zhang et al.,
    "Accelerating Very Deep Convolutional Networks" (arXiv 1505.06798).

    Args:
        weight: `(out_channels, in_channels · prod(kernel_size))`, the dense weight with its last axes flattened.
        bias: `(out_channels,)` or None. A parameter is shared, not copied.
        like: the convolution whose geometry (kernel, stride, padding, dilation) is taken over.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: LowRank, bias: nn.Parameter | None, *, like: Conv) -> None:
        super().__init__()
        _check_bias(bias, weight)
        expected = (like.out_channels, like.in_channels * math.prod(like.kernel_size))
        if weight.shape != expected or like.groups != 1:
            raise ClisonixError(
                f"the weight is {weight.shape} for a convolution with groups={like.groups} that needs "
                f"{expected}; give its flattened weight, with groups=1"
            )
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        self.kernel_size, self.stride, self.dilation = like.kernel_size, like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self._pad_widths = pad_widths(like)
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, in_channels, *size)` to `(batch, out_channels, *out)`; the batch axis may be left out."""
        dims = len(self.kernel_size)
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._pad_widths, mode=self.padding_mode), (0,) * dims
        convolve = _CONV_FUNCTIONS[dims]
        right = self.weight.right.reshape(-1, self.in_channels, *self.kernel_size)
        left = self.weight.left.reshape(self.out_channels, -1, *(1,) * dims)
        return convolve(convolve(x, right, None, self.stride, padding, self.dilation), left, self.bias)

    @torch.no_grad()
    def expand(self) -> Conv:
        """The ordinary layer with the same map, detached; the bias is shared."""
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
        dense = self.weight.dense().reshape(self.out_channels, self.in_channels, *self.kernel_size)
        layer.weight = nn.Parameter(dense, requires_grad=_trainable(self.weight))
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding not in ((0,) * len(self.kernel_size), "valid"):
            text += f", padding={self.padding!r}, padding_mode={self.padding_mode!r}"
        if any(step != 1 for step in self.dilation):
            text += f", dilation={self.dilation}"
        return text + _saving(self)


def pad_widths(conv: Conv) -> list[int]:
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


def _check_bias(bias: Tensor | None, weight: Matrix) -> None:
    if bias is not None and tuple(bias.shape) != weight.shape[:1]:
        raise ClisonixError(
            f"the bias has shape {tuple(bias.shape)} and the weight {weight.shape}; give {weight.shape[:1]}"
        )


def _saving(layer: LiamLinear | LiamConv) -> str:
    m, n = layer.weight.shape
    share = layer.weight.nbytes / (m * n * layer.weight.dtype.itemsize)
    return f", bias={layer.bias is not None}, {share:.0%} of the dense bytes"


def _trainable(matrix: Matrix) -> bool:
    return any(parameter.requires_grad for parameter in matrix.parameters())
