"""Second moments of what goes into each layer, gathered while calibration batches run through the model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clisonix.compress.layers import pad_widths
from clisonix.compress.survey import Site
from clisonix.errors import ClisonixError

MASK_NOTE = "calibration counts every position a layer is given: padding that the model masks later is not known here"
_CHUNK_VALUES = 1 << 22


class Moment:
    """The running second moment E[x xᵀ] of what a layer's weight multiplies.

    For a convolution x is a patch: the `in_channels · prod(kernel_size)` values under the kernel, padding
    included. Sums are kept in float64 (float32 on devices without it), so their size does not depend on how
    much data there is: n² numbers for a layer with n inputs.
    """

    def __init__(self, name: str, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self.name = name
        self.layer = layer
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take in one input of the layer, as the layer itself is given it.

        Raises:
            ClisonixError: it holds NaN or infinity.
        """
        for rows in self._rows(x):
            dtype = torch.float32 if rows.device.type == "mps" else torch.float64
            # Half-precision products would lose the small directions; autocast must not touch these.
            with torch.autocast(rows.device.type, enabled=False):
                rows = rows.to(dtype)
                gram = rows.mT @ rows
            self._sum = gram if self._sum is None else self._sum.add_(gram)
            self.count += rows.shape[0]
        if self._sum is not None and not torch.isfinite(self._sum.diagonal()).all():
            raise ClisonixError(
                f"the input of layer {self.name!r} is not finite (NaN or infinity) on a calibration batch; "
                "check the data and the model's weights"
            )

    @property
    def matrix(self) -> Tensor | None:
        """`(n, n)`, or None if the layer was never called."""
        return None if self._sum is None else self._sum / self.count

    def _rows(self, x: Tensor) -> Iterator[Tensor]:
        """`(rows, n)` blocks of bounded size."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            rows = x.reshape(-1, layer.in_features)
            yield from (
                block for block in torch.split(rows, max(1, _CHUNK_VALUES // layer.in_features)) if len(block)
            )
            return
        dims = len(layer.kernel_size)
        x = x if x.ndim == dims + 2 else x[None]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        yield from _patches(F.pad(x, pad_widths(layer), mode=mode), layer)


def _patches(x: Tensor, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Iterator[Tensor]:
    """Patches of `(batch, channels, *size)` as `(positions, channels · prod(kernel))`, some at a time."""
    for axis, (size, step, gap) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    dims = len(conv.kernel_size)
    x = x.movedim(1, 1 + dims)  # (batch, *out, channels, *kernel)
    if not x.numel():
        return
    for samples in torch.split(x, max(1, _CHUNK_VALUES // x[0].numel())):
        for lines in torch.split(samples, max(1, _CHUNK_VALUES // samples[:, 0].numel()), dim=1):
            rows = lines.reshape(-1, conv.in_channels * math.prod(conv.kernel_size))
            if len(rows):
                yield rows


@torch.no_grad()
def gather(model: nn.Module, sites: Sequence[Site], batches: Iterable[Any]) -> dict[str, Moment]:
    """Run `batches` through `model` in eval mode and gather the moments of every site that can be compressed.

    A batch is handed to the model like this:

    - a tensor: `model(batch)`;
    - a tuple or list: `model(*batch)`;
    - a dict whose keys are all named parameters of `forward` and cover the required ones: `model(**batch)`;
      any other dict: `model(batch)`. A `**kwargs` in `forward` does not count as naming anything.

    Tensors are moved to the model's device. The training mode of every module is put back afterwards.

    Args:
        model: the dense model.
        sites: from `survey`.
        batches: any finite iterable; walked once.

    Returns:
        A moment per site that can be compressed, by name; `matrix` is None where the layer never ran.

    Raises:
        ClisonixError: no batches, batches that `forward` cannot take, or activations that are not finite.
    """
    if isinstance(batches, Tensor | Mapping | str | bytes) or not isinstance(batches, Iterable):
        raise ClisonixError(
            f"calibration is a {type(batches).__name__}; give an iterable of batches, such as [batch]"
        )
    moments = {site.name: Moment(site.name, site.layer) for site in sites if site.reason is None}
    signature = inspect.signature(model.forward)
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    device = devices.pop() if len(devices) == 1 else None
    seen = 0
    with _eval_mode(model), _hooks(moments.values()):
        for batch in batches:
            args, kwargs = _arguments(_moved(batch, device), signature)
            model(*args, **kwargs)
            seen += 1
    if not seen:
        raise ClisonixError("calibration gave no batches; a generator can be walked only once, so give a list")
    return moments


def _arguments(batch: Any, signature: inspect.Signature) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
    args: tuple[Any, ...] = (batch,)
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        named = {name for name, parameter in signature.parameters.items() if parameter.kind in by_name}
        if batch and set(batch) <= named and _binds(signature, (), dict(batch)):
            args, kwargs = (), dict(batch)
    elif isinstance(batch, tuple | list):
        args = tuple(batch)
    elif not isinstance(batch, Tensor):
        raise ClisonixError(f"a calibration batch is a {type(batch).__name__}; give a tensor, a tuple or a dict")
    if not _binds(signature, args, kwargs):
        given = sorted(kwargs) if kwargs else f"{len(args)} positional input{'s' * (len(args) != 1)}"
        raise ClisonixError(
            f"a calibration batch gives {given} but the model's forward takes {signature}; "
            "give only the model's inputs, without labels"
        )
    return args, kwargs


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _moved(value: Any, device: torch.device | None) -> Any:  # noqa: ANN401
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _hooks(moments: Iterable[Moment]) -> Iterator[None]:
    handles = []
    for moment in moments:

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], moment: Moment = moment) -> None:
            moment.add(args[0] if args else kwargs["input"])

        handles.append(moment.layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
