"""Packed weights in the order in which the kernels of a CPU read them.

By row, the bytes of one row lie together, as files and GPUs have them. Tiled, byte `k` of 32 rows does: sums are
looked up for 32 rows at once, and rows need not be turned for that at every product. A tiled matrix takes as many
bytes and gives the same results, bit for bit; products with few rows of input take about half the time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from clisonix.kernels.planes_reference import ROWS_OF_TILE, TILED, by_row, tile
from clisonix.liam.matrix import Matrix

M = TypeVar("M", bound=nn.Module)


class Packed(Matrix):
    """A matrix whose entries are bits in a buffer, by row or tiled; its state is by row in any case."""

    BITS: ClassVar[str]
    """The buffer's name."""

    _shown: weakref.ref[Tensor] | None = None

    @property
    def is_tiled(self) -> bool:
        """Whether bytes of 32 rows lie together."""
        return self._bits.ndim == TILED

    @torch.no_grad()
    def tile_(self) -> Self:
        """Tile the bits, in place, where that serves: on a CPU, with a multiple of 32 rows."""
        bits, rows = self._bits, self.shape[0]
        if not self.is_tiled and bits.device.type == "cpu" and bits.numel() and rows % ROWS_OF_TILE == 0:
            setattr(self, self.BITS, tile(bits if bits.ndim == TILED - 1 else bits[None]))
        return self

    @torch.no_grad()
    def untile_(self) -> Self:
        """Put the bits back by row, in place."""
        setattr(self, self.BITS, self.by_row())
        return self

    def by_row(self) -> Tensor:
        """The bits as the constructor takes them; a copy if they are tiled."""
        return by_row(self._bits)

    def bits_of(self, rows: Tensor) -> Tensor:
        """`by_row()` of some rows, an index each, without touching the others."""
        bits = self._bits
        if self.is_tiled:
            # The places come first where what indexes has a slice between.
            return bits[:, rows // ROWS_OF_TILE, :, rows % ROWS_OF_TILE].movedim(0, 1)
        return bits.index_select(bits.ndim - 2, rows)

    @property
    def _bits(self) -> Tensor:
        return getattr(self, self.BITS)  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # The kernels of other devices read rows.
        return self.untile_() if self.is_tiled and self._bits.device.type not in ("cpu", "meta") else self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_tiled:
            # A matrix that is reached by two names shows the same tensor under both, as any module does.
            shown = self._shown() if self._shown is not None else None
            shown = self.by_row() if shown is None else shown
            self._shown = weakref.ref(shown)
            destination[prefix + self.BITS] = shown

    def _load_from_state_dict(self, *args: Any) -> None:  # noqa: ANN401 - as torch has them
        tiled = self.is_tiled
        if tiled:
            self.untile_()
        super()._load_from_state_dict(*args)
        if tiled:
            self.tile_()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shown"}


def tile_(module: M) -> M:
    """Tile every packed weight of a model or matrix, in place: for products on a CPU with few rows of input.

    What can be told of a model stays the same: its results, its state, the file that it is saved to, its size. Moved
    to another device, it is by row again.

    Args:
        module: holds any number of packed matrices, or none.

    Returns:
        The same module.
    """
    for part in module.modules():
        if isinstance(part, Packed):
            part.tile_()
    return module
