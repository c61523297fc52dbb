"""Voltages against another reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms.chain import Transform


class Reference(Transform):
    """Subtract the mean of the reference channels, at each instant over those of them that were measured then.

    Where none of them was, every channel is masked.
    """

    def __init__(self, channels: Sequence[int] | None = None) -> None:
        """Choose the reference.

        Args:
            channels: their indices, two mastoids say; None takes the average of all.

        Raises:
            ClisonixError: an empty choice or an index below 0.
        """
        super().__init__()
        if channels is not None and (not channels or min(channels) < 0):
            raise ClisonixError(f"reference channels are {list(channels)}, expected indices from 0 on")
        self.channels = None if channels is None else tuple(channels)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`.

        Raises:
            ClisonixError: a reference channel that the modality does not have.
        """
        if self.channels is None:
            values, measured = x, mask
        else:
            if max(self.channels) >= x.shape[1]:
                raise ClisonixError(f"reference channel {max(self.channels)} is none of {x.shape[1]} channels")
            values, measured = x[:, list(self.channels)], mask[:, list(self.channels)]
        count = measured.sum(1, keepdim=True)
        mean = torch.where(measured, values, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
        kept = mask & (count > 0)
        return torch.where(kept, x - mean, 0.0), kept
