"""A model as one vector, and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.tide.replica import Schema
from clisonix.tide.shared import real_view, shared_tensors


class Flat:
    """The floating tensors of a model end to end; integer ones stay as each site built them.

    Args:
        model: whole, unsharded, on any device.

    Raises:
        ClisonixError: it cannot be shared, or trains in float64, of which the agreed state would lose half.
    """

    def __init__(self, model: nn.Module) -> None:
        shared = shared_tensors(model)
        self._tensors: dict[str, Tensor] = {**shared.trained, **shared.averaged}
        for name, tensor in shared.trained.items():
            if real_view(tensor).dtype == torch.float64:
                raise ClisonixError(f"{name!r} is float64, but sites agree on float32: call model.float() first")
        self.schema = Schema(
            {name: real_view(tensor).shape for name, tensor in shared.trained.items()},
            {name: real_view(tensor).shape for name, tensor in shared.averaged.items()},
        )

    @torch.no_grad()
    def read(self, begun: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """`(size,)`, where the model stands.

        Args:
            begun: what was written into it last. In half precision the model began from rounded values; so that
                the rounding does not pass for progress, its steps are counted from there.
        """
        vector = np.empty(self.schema.size, np.float32)
        at = 0
        for tensor in self._tensors.values():
            real = real_view(tensor)
            part = vector[at : at + real.numel()]
            live = real.to("cpu", torch.float32).contiguous().view(-1).numpy()
            if begun is None or real.dtype == torch.float32:
                part[:] = live
            else:
                before = begun[at : at + real.numel()]
                part[:] = before - (torch.from_numpy(before).to(real.dtype).float().numpy() - live)
            at += real.numel()
        return vector

    @torch.no_grad()
    def write(self, vector: NDArray[np.float32]) -> None:
        """Overwrite the live tensors in place, so that the inner optimiser keeps its references."""
        at = 0
        for tensor in self._tensors.values():
            real = real_view(tensor)
            real.copy_(torch.from_numpy(vector[at : at + real.numel()]).view(real.shape))
            at += real.numel()
