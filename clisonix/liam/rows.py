"""A matrix too large for memory, as blocks of rows, from whatever it is read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.scale import safe, scale_for

# What is held of the rows at once.
BLOCK_BYTES = 2**24

Piece = Tensor | np.ndarray[Any, Any]


class Rows(ABC):
    """Blocks of rows of a matrix `(m, n)`, read from the start as often as is asked.

    Args:
        columns: `n`.
        dtype: of the numbers as they come.
        device: where the blocks are wanted.
    """

    # Whether this is the transpose of what was given.
    flipped = False

    def __init__(self, columns: int, dtype: Any, device: torch.device) -> None:  # noqa: ANN401
        self.columns = columns
        self.dtype, self.kept = _types(dtype)
        self.device = device
        self.scale = 1.0
        self.spread: Tensor | None = None
        self.count: int | None = None
        self.largest = self.squared_norm = 0.0

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """The rows in order, `(b, n)` at a time."""

    def place(self, index: int, start: int, stop: int) -> str:
        """How the user would call the piece `index`."""
        return f"Row block {index} (rows {start} to {stop - 1})"

    def blocks(self, capacity: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The first row and the rows `(b, n)` of each block, over `scale` and times `spread` where there is one.

        All blocks are one buffer, filled again for the next. The first reading checks every entry and finds
        `count`, `largest` (of the entries as they come) and `squared_norm` (of the rows as they are given out).

        Args:
            capacity: rows of a block; as many as `BLOCK_BYTES` hold by default.

        Raises:
            ClisonixError: an entry that is not finite, rows of another width, another number of rows than before.
        """
        first = self.count is None
        capacity = capacity or max(1, BLOCK_BYTES // max(1, self.columns * self.dtype.itemsize))
        buffer = torch.empty(capacity, self.columns, dtype=self.dtype, device=self.device)
        start = filled = 0
        for index, piece in enumerate(self.pieces()):
            self._check_shape(index, piece)
            taken = 0
            while taken < len(piece):
                take = min(len(piece) - taken, capacity - filled)
                part = buffer[filled : filled + take]
                _copy(piece[taken : taken + take], part)
                if first:
                    self._check_finite(part, index, start + filled)
                taken, filled = taken + take, filled + take
                if filled == capacity:
                    yield start, self._ready(buffer, first)
                    start, filled = start + filled, 0
        if filled:
            yield start, self._ready(buffer[:filled], first)
        self._check_count(start + filled)

    def in_range(self) -> bool:
        """Whether squares of the entries neither overflow nor vanish; if not, `scale` is set for reading anew."""
        if safe(self.largest / self.scale):
            return True
        self.scale = scale_for(self.largest)
        self.count, self.largest, self.squared_norm = None, 0.0, 0.0
        return False

    def _ready(self, block: Tensor, first: bool) -> Tensor:
        if self.scale != 1.0:
            block.mul_(1.0 / self.scale)
        if self.spread is not None:
            block = block @ self.spread
        if first:
            dtype = block.dtype if safe(self.largest / self.scale) else torch.float64
            self.squared_norm += float(torch.linalg.vector_norm(block, dim=1, dtype=dtype).double().square().sum())
        return block

    def _check_shape(self, index: int, piece: Piece) -> None:
        check_piece(index, piece)
        if piece.shape[1] != self.columns:
            raise ClisonixError(
                f"Row block {index} has shape {tuple(piece.shape)} and row block 0 has {self.columns} columns; "
                f"give blocks of shape (rows, {self.columns})."
            )
        _types(piece.dtype)

    def _check_finite(self, part: Tensor, index: int, start: int) -> None:
        if part.numel() == 0:
            return
        size = max(abs(float(end)) for end in torch.aminmax(part))
        if not size < float("inf"):
            bad = int((~part.isfinite()).sum())
            raise ClisonixError(
                f"{self.place(index, start, start + len(part))} has {bad} entries that are NaN or infinite; "
                "replace them first."
            )
        self.largest = max(self.largest, size)

    def _check_count(self, count: int) -> None:
        if self.count is None:
            if count == 0:
                raise ClisonixError("The row blocks hold no rows; give at least one.")
            self.count = count
        elif self.count != count:
            raise ClisonixError(
                f"The row blocks held {self.count} rows the first time and {count} the next; "
                "give a function that starts afresh each time, or an iterator to be read once."
            )


def check_piece(index: int, piece: object) -> None:
    """Raise unless `piece` has rows and columns that lie in memory."""
    if not isinstance(piece, Tensor | np.ndarray) or piece.ndim != 2:
        shape = f" of shape {tuple(piece.shape)}" if isinstance(piece, Tensor | np.ndarray) else ""
        raise ClisonixError(
            f"Row block {index} is a {type(piece).__name__}{shape}; give a tensor or array of shape (rows, columns)."
        )
    if isinstance(piece, Tensor) and piece.layout != torch.strided:
        raise ClisonixError(f"Row block {index} is a sparse tensor; give it as piece.to_dense().")


def _types(dtype: Any) -> tuple[torch.dtype, torch.dtype]:  # noqa: ANN401 - of torch or of NumPy
    """The type to calculate in, and that of the result."""
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    name = (
        str(dtype).removeprefix("torch.")
        if isinstance(dtype, torch.dtype)
        else np.dtype(dtype).newbyteorder("=").name
    )
    if name in known:
        return torch.promote_types(known[name], torch.float32), known[name]
    if name in ("bool", "int8", "uint8", "int16", "uint16"):
        return torch.float32, torch.float32
    if name in ("int32", "uint32", "int64", "uint64"):
        return torch.float64, torch.float64
    raise ClisonixError(f"x holds {dtype} numbers; give real numbers of 8 to 64 bits.")


def _copy(piece: Piece, part: Tensor) -> None:
    if isinstance(piece, Tensor):
        part.copy_(piece)
    elif part.device.type == "cpu":
        np.copyto(part.numpy(), piece, casting="unsafe")
    else:
        part.copy_(torch.from_numpy(np.array(piece)))
