"""What a transform is, and how several become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.window import Window


class Transform(nn.Module):
    """Changes the values of one modality and says which of the results rest on measured values.

    What it computes with (filter taps, fitted scales) are buffers: they move with `.to(device)` and are saved with
    `state_dict`.
    """

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The changed values and their mask.

        Args:
            x: `(batch, channels, time)`, 0 where nothing was measured.
            mask: the same shape, True where a value was measured.
        """
        raise NotImplementedError


class Chain(Transform):
    """One transform after the other."""

    def __init__(self, *steps: Transform) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`."""
        for step in self.steps:
            x, mask = step(x, mask)
        return x, mask


class PerModality(nn.Module):
    """A transform for each modality of a window; modalities without one stay as they are.

    Example:
        >>> from clisonix.fabric.transforms import Chain, PerModality, Reference, band_pass
        >>> change = PerModality({"eeg": Chain(Reference(), band_pass(256.0, 4.0, 40.0))})
        >>> sorted(change.state_dict())
        ['transforms.eeg.steps.1.taps']
    """

    def __init__(self, transforms: Mapping[str, Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleDict(transforms)

    def forward(self, window: Window) -> Window:
        """A batch with changed streams and masks.

        Raises:
            ClisonixError: the batch lacks a modality that has a transform.
        """
        streams, masks = dict(window["streams"]), dict(window["masks"])
        for name, transform in self.transforms.items():
            if name not in streams:
                raise ClisonixError(f"a window lacks {name!r}, which has a transform{nearest(name, streams)}")
            streams[name], masks[name] = transform(streams[name], masks[name])
        return cast(Window, {**window, "streams": streams, "masks": masks})
