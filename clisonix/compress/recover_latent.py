"""A compressed model in the state in which its packed weights learn, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clisonix.compress.layers import LiamEmbedding, LiamLayer
from clisonix.kernels.integer import pack_codes, unpack_codes
from clisonix.liam.binary import Binary
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.latent import Latent, pack, unpack
from clisonix.liam.matrix import Matrix, check_finite
from clisonix.liam.rebuild import rebuild


class LatentInteger(Latent):
    """An `Integer` in training: the level of an entry is its latent, rounded; the gradient passes the rounding.

    A latent begins on its level, half a level from the next on either side, and is free to leave the range
    of levels: what leads it back reaches it there too. The scales get their true gradient.

    Args:
        latent: `(m, n)`, in levels.
        scales: `(m, ceil(n / group))`.
        bits: 2 to 8, of the packed form.
        group: columns that share a scale.
    """

    def __init__(self, latent: Tensor, scales: Tensor, bits: int, group: int) -> None:
        super().__init__(latent, scales, 2)
        self.bits, self.group = bits, group

    @classmethod
    @torch.no_grad()
    def of(cls, matrix: Integer) -> LatentInteger:
        """The levels of `matrix`, with its scales shared."""
        levels = unpack_codes(matrix.by_row(), matrix.columns).to(matrix.dtype) - matrix.offset
        return cls(levels, matrix.scales, matrix.bits, matrix.group)

    @torch.no_grad()
    def levels(self) -> Tensor:
        reach = 1 << (self.bits - 1)
        return self.latent.round().clamp(-reach, reach - 1)

    @torch.no_grad()
    def pack(self) -> Integer:
        check_finite(self.latent, "latent")
        codes = (self.levels() + (1 << (self.bits - 1))).to(torch.uint8)
        return Integer(pack_codes(codes, self.bits), self.scales, self.shape[1], self.group)

    def dense(self) -> Tensor:
        # Exactly the levels in value, the latent in gradient.
        through = self.levels() + (self.latent - self.latent.detach())
        return through * self.scales.repeat_interleave(self.group, dim=1)[:, : self.shape[1]]


def learner(matrix: Matrix) -> Matrix:
    """`matrix` with every packed part of it, however deep, in a form whose levels train; the rest is shared."""
    if isinstance(matrix, Binary | Ternary):
        return unpack(matrix)
    return LatentInteger.of(matrix) if isinstance(matrix, Integer) else rebuild(matrix, learner)


class Learning:
    """A model whose packed weights learn until `finish`, which packs them again; it is changed in place.

    A weight stored in half precision in a layer that computes in single precision learns in single precision.
    Tables of embeddings keep their levels and learn their scales: most rows are seen too seldom.

    Args:
        model: with matrices as the weights of layers.
        levels: whether levels learn, or only what is stored as floating point.
        within: the larger model that `model` is a part of. Where it uses a matrix elsewhere too, its levels stay.

    Attributes:
        stored: parameters that have to be rounded to another dtype in the end.
    """

    def __init__(self, model: nn.Module, levels: bool, within: nn.Module | None = None) -> None:
        self._model = model
        self._dtypes: dict[int, torch.dtype] = {}
        self.stored: dict[nn.Parameter, torch.dtype] = {}
        places = list(_places(model))
        fixed = {id(matrix) for layer, _, matrix in places if isinstance(layer, LiamEmbedding)}
        if within is not None:
            uses = Counter(id(matrix) for _, _, matrix in _places(within))
            uses.subtract(id(matrix) for _, _, matrix in places)
            fixed |= {which for which, others in uses.items() if others}
        made: dict[int, Matrix] = {}
        for layer, name, matrix in places:
            if id(matrix) not in made:
                new = learner(matrix) if levels and id(matrix) not in fixed else matrix
                wide = layer.dtype_for(matrix) if isinstance(layer, LiamLayer) else matrix.dtype
                if wide != matrix.dtype:
                    self._dtypes[id(new)] = matrix.dtype
                    latents = {id(part.latent) for part in new.modules() if isinstance(part, Latent)}
                    new.to(wide)
                    self.stored |= {p: matrix.dtype for p in new.parameters() if id(p) not in latents}
                made[id(matrix)] = new.train(matrix.training)
            layer._modules[name] = made[id(matrix)]
        # What is replaced above is compared by identity until here, so it must not be freed before.
        del places

    @torch.no_grad()
    def finish(self) -> None:
        """Pack what learned.

        Raises:
            ClisonixError: a latent is NaN or infinite, so it has no level.
        """
        made: dict[int, Matrix] = {}
        places = list(_places(self._model))
        for layer, name, matrix in places:
            if id(matrix) not in made:
                packed = pack(matrix)
                made[id(matrix)] = packed.to(self._dtypes.get(id(matrix), packed.dtype))
            layer._modules[name] = made[id(matrix)]
        self._dtypes.clear()


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, Matrix]]:
    """Every layer that has a matrix, with its name there; matrices within matrices are left out."""
    ahead, seen = [model], {id(model)}
    while ahead:
        module = ahead.pop()
        for name, child in module._modules.items():
            if isinstance(child, Matrix):
                yield module, name, child
            elif child is not None and id(child) not in seen:
                seen.add(id(child))
                ahead.append(child)
