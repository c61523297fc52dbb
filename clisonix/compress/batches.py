"""How a calibration batch becomes the arguments of a model, and what is its target."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

Loss = Callable[[Any, Any], Tensor]


class Feeder:
    """Hands batches to one model.

    - a tensor: `model(batch)`;
    - a tuple or list: `model(*batch)`;
    - a dict whose keys are all named parameters of `forward` and cover the required ones: `model(**batch)`;
      any other dict: `model(batch)`. A `**kwargs` in `forward` does not count as naming anything.

    Where there is a loss, a tuple or list of two is `(inputs, target)`: the inputs go to the model by the same rule
    and the loss is `loss(output, target)`. With any other batch it is `loss(output, batch)`.

    Args:
        model: whose `forward` decides; tensors are moved to its device if it has only one.
        loss: of the model's output and the target or batch; a tensor with one element.
    """

    def __init__(self, model: nn.Module, loss: Loss | None = None) -> None:
        self.model, self.loss = model, loss
        self._signature = inspect.signature(model.forward)
        devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
        self._device = devices.pop() if len(devices) == 1 else None

    def moved(self, batch: Any) -> Any:  # noqa: ANN401 - whatever a batch is
        """`batch` on the device of the model."""
        return batch if self._device is None else _moved(batch, self._device)

    def inputs(self, batch: Any) -> Any:  # noqa: ANN401
        """What of `batch` the model is given."""
        return batch[0] if self._paired(batch) else batch

    def output(self, batch: Any) -> Any:  # noqa: ANN401
        """What the model makes of `batch`.

        Raises:
            ClisonixError: the model does not take it.
        """
        given = self.inputs(batch)
        args, kwargs = self._arguments(given)
        try:
            return self.model(*args, **kwargs)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClisonixError(
                f"the model fails on a calibration batch of {described(given)} ({reason}); give batches of its inputs"
            ) from error

    def value(self, output: Any, batch: Any) -> Tensor:  # noqa: ANN401
        """The loss of an output.

        Raises:
            ClisonixError: the loss fails or is no single finite number.
        """
        assert self.loss is not None
        target = batch[1] if self._paired(batch) else batch
        try:
            value = self.loss(output, target)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClisonixError(
                f"the loss fails on {described(output)} and {described(target)} ({reason}); it is called as "
                "loss(output, target) for batches (inputs, target), and else as loss(output, batch)"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            raise ClisonixError(f"the loss gives {described(value)}; it must give a tensor with one number")
        if not bool(torch.isfinite(value.detach()).all()):
            raise ClisonixError("the loss is not finite (NaN or infinity) on a calibration batch; check the data")
        return value.reshape(())

    def _paired(self, batch: Any) -> bool:  # noqa: ANN401
        return self.loss is not None and isinstance(batch, tuple | list) and len(batch) == 2

    def _arguments(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
        args: tuple[Any, ...] = (batch,)
        kwargs: dict[str, Any] = {}
        if isinstance(batch, Mapping):
            by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            named = {name for name, parameter in self._signature.parameters.items() if parameter.kind in by_name}
            if batch and set(batch) <= named and self._binds((), dict(batch)):
                args, kwargs = (), dict(batch)
        elif isinstance(batch, tuple | list):
            args = tuple(batch)
        elif not isinstance(batch, Tensor):
            raise ClisonixError(f"a calibration batch is a {type(batch).__name__}; give a tensor, a tuple or a dict")
        if not self._binds(args, kwargs):
            given = sorted(kwargs) if kwargs else f"{len(args)} positional input{'s' * (len(args) != 1)}"
            raise ClisonixError(
                f"a calibration batch gives {given} but the model's forward takes {self._signature}; "
                "give only the model's inputs, without labels, or pairs (inputs, target) together with loss="
            )
        return args, kwargs

    def _binds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError:
            return False
        return True


def check_batches(batches: Iterable[Any]) -> None:
    """Raise a ClisonixError unless `batches` can be an iterable of batches."""
    if isinstance(batches, Tensor | Mapping | str | bytes) or not isinstance(batches, Iterable):
        raise ClisonixError(
            f"calibration is a {type(batches).__name__}; give an iterable of batches, such as [batch]"
        )


def described(value: Any) -> str:  # noqa: ANN401
    """A batch in a few words: types and shapes."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(item)}" for key, item in list(value.items())[:6]) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(described(item) for item in value[:6]) + ")"
    return type(value).__name__


def tensors_in(value: Any) -> list[Tensor]:  # noqa: ANN401
    """The floating-point tensors in an output, however nested, in a fixed order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def _moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value
