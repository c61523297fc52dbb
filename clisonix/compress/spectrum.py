"""How well a layer can be told with few numbers: its singular values under the inputs it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clisonix.compress.calibrate import Moment
from clisonix.errors import ClisonixError
from clisonix.liam.svd import whitened_svd

# Added to the second moment, relative to its mean eigenvalue. A direction that no calibration batch shows is
# then cheap to drop but not free, so a full rank reproduces the layer on every input, seen or not.
RIDGE = 1e-4


@dataclass(frozen=True)
class Spectrum:
    """Every low-rank approximation of one weight `(m, n)`, with q = min(m, n).

    Attributes:
        left: `(m, q)`, orthonormal columns.
        values: `(q,)`, descending.
        right: `(q, n)`.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def errors(self) -> list[float]:
        """Relative squared output error at rank 0, 1, ..., q; all 0 when the layer has no output energy."""
        energy = self.values.double().square().cpu()
        # Summed from the smallest up, so that the tail of a steep spectrum is not rounded away.
        tails = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
        total = float(tails[0])
        return (tails / total).tolist() if total > 0 else [0.0] * len(tails)

    def factors(self, rank: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The best `left (m, rank)` and `right (rank, n)`, of the dtype and on the device of `like`.

        The singular values are shared evenly: even factors get gradients of like size, so that one learning
        rate suits both.
        """
        root = self.values[:rank].sqrt()
        return (self.left[:, :rank] * root).to(like), (root[:, None] * self.right[:rank]).to(like)


@torch.no_grad()
def spectrum(name: str, layer: nn.Module, moment: Tensor | None) -> Spectrum:
    """Decompose the weight of `layer`, flattened to `(out, in · prod(kernel))`.

    Args:
        name: of the layer, for the error message.
        layer: with a `weight`.
        moment: second moment of its inputs `(n, n)`; None takes all directions as equally likely.

    Raises:
        ClisonixError: the weight is not finite.
    """
    weight = layer.get_parameter("weight").detach().flatten(1)
    if weight.device.type == "mps":  # which has no float64
        weight, moment = weight.cpu(), None if moment is None else moment.cpu()
    if not torch.isfinite(weight).all():
        raise ClisonixError(f"the weight of layer {name!r} is not finite (NaN or infinity); repair it first")
    mean = None if moment is None else moment.diagonal().mean()
    if moment is None or mean is None or mean <= 0:
        left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
        kept = torch.promote_types(weight.dtype, torch.float32)
        return Spectrum(left.to(kept), values.to(kept), right.to(kept))
    ridge = RIDGE * mean * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return Spectrum(*whitened_svd(weight, moment + ridge))


def spectra(layers: Mapping[str, nn.Module], moments: Mapping[str, Moment] | None) -> dict[str, Spectrum]:
    """`spectrum` of each layer; blind where `moments` has nothing for it."""
    found = {}
    for name, layer in layers.items():
        moment = moments.get(name) if moments is not None else None
        found[name] = spectrum(name, layer, moment.matrix if moment is not None else None)
    return found
