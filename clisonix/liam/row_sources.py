"""What blocks of rows can be read from: arrays, mapped files, iterables, functions, iterators."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.rows import Piece, Rows, check_piece

# How much of a mapped file is looked at before its pages are let go.
PIECE_BYTES = 2**23
# The same where a piece cuts across the order in which the file is stored: longer runs, but of only so many
# lines at a time, since the kernel maps up to half a megabyte around each.
STRIP_BYTES = 2**25
LINES = 16
# Rows that are few enough for strips to have long runs, and columns too many to hold a basis of some rows.
FEW_ROWS = 2048
MANY_COLUMNS = 2**18


class ArrayLike(Protocol):
    """Two dimensions of numbers that can be sliced: `numpy.memmap`, `h5py.Dataset` and the like."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...  # noqa: ANN401 - a NumPy dtype, or what another library has for one
    def __getitem__(self, key: Any, /) -> Any: ...  # noqa: ANN401


Source = ArrayLike | Iterable[Piece] | Callable[[], Iterable[Piece]]


def open_rows(source: Source, may_flip: bool) -> tuple[Rows, bool]:
    """`source` as blocks of rows, and whether it can be read again.

    Args:
        source: an array, an iterable of blocks, a function that returns one, or an iterator.
        may_flip: whether the transpose would do.

    Raises:
        ClisonixError: none of these, or nothing in it.
    """
    if isinstance(source, nn.Module):
        raise ClisonixError(f"x is a {type(source).__name__}; give its weight, a matrix, or blocks of rows.")
    shape = getattr(source, "shape", None)
    if isinstance(shape, tuple) and hasattr(source, "dtype"):
        if len(shape) != 2 or 0 in shape:
            raise ClisonixError(f"x is an array of shape {shape}; give two dimensions with something in them.")
        if isinstance(source, np.ma.MaskedArray):
            raise ClisonixError("x is a masked array; fill what is masked first, as in x.filled(0).")
        return ArrayRows(source, may_flip), True  # type: ignore[arg-type]
    if isinstance(source, Iterator):
        first = _first(source)
        return IterableRows(lambda: chain([first], source), first), False
    make = (lambda: source) if isinstance(source, Iterable) else source
    if not callable(make):
        raise ClisonixError(
            f"x is a {type(source).__name__}; give a tensor, a matrix, an array of two dimensions, or blocks of rows."
        )
    return IterableRows(make, _first(make())), True


class IterableRows(Rows):
    """Rows of an iterable of blocks, begun anew each time.

    Args:
        make: returns the iterable.
        first: the block that it begins with.
    """

    def __init__(self, make: Callable[[], Iterable[Piece]], first: Piece) -> None:
        check_piece(0, first)
        device = first.device if isinstance(first, Tensor) else torch.device("cpu")
        super().__init__(int(first.shape[1]), first.dtype, device)
        self.make = make

    def pieces(self) -> Iterator[Piece]:
        return iter(self.make())


class ArrayRows(Rows):
    """Rows of an array in memory, in a mapped file, or behind an interface like NumPy's.

    What is held grows with the columns, so that an array with many more columns than rows is read as its
    transpose, in strips of columns. Pages of a mapped file are let go once read: a file of any size adds no
    more than some `PIECE_BYTES` to the resident memory.
    """

    def __init__(self, array: ArrayLike, may_flip: bool) -> None:
        m, n = array.shape
        # An array in Fortran order is one in C order of its transpose.
        strides = getattr(array, "strides", None)
        by_columns = strides is not None and abs(strides[0]) < abs(strides[1])
        lines, length = (n, m) if by_columns else (m, n)
        if may_flip:
            self.across = 4 * lines < length and (lines <= FEW_ROWS or length > MANY_COLUMNS)
        else:
            self.across = by_columns
        self.flipped = by_columns != self.across
        super().__init__(m if self.flipped else n, array.dtype, torch.device("cpu"))
        self.array = array
        self.length = n if self.flipped else m
        self.pages = _Pages.of(array)

    def pieces(self) -> Iterator[Piece]:
        gathered = self.across and self.pages is not None
        size = self.columns * np.dtype(self.array.dtype).itemsize
        step = max(1, (STRIP_BYTES if gathered else PIECE_BYTES) // size)
        for start in range(0, self.length, step):
            rows = slice(start, min(start + step, self.length))
            if gathered:
                yield self._gathered(rows)
            else:
                part = self._part(rows, slice(None))
                yield part
                self._let_go(part)

    def place(self, index: int, start: int, stop: int) -> str:
        return f"The part of {'columns' if self.flipped else 'rows'} {start} to {stop - 1}"

    def _part(self, rows: slice, columns: slice) -> np.ndarray[Any, Any]:
        """Some of the rows as they are given out, without a copy where the array can do so."""
        if self.flipped:
            return np.asarray(self.array[columns, rows]).T
        return np.asarray(self.array[rows, columns])

    def _gathered(self, rows: slice) -> np.ndarray[Any, Any]:
        """A copy of rows whose entries lie scattered in the file, some lines at a time."""
        strip = np.empty((self.columns, rows.stop - rows.start), self.array.dtype)
        for line in range(0, self.columns, LINES):
            part = self._part(rows, slice(line, line + LINES))
            strip[line : line + LINES] = part.T
            self._let_go(part)
        return strip.T

    def _let_go(self, part: np.ndarray[Any, Any]) -> None:
        if self.pages is not None:
            self.pages.let_go(part)


class _Pages:
    """The pages of a mapped file. They count as resident memory from the first look until they are let go."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self.mapping = mapping
        self.address = _bounds(np.frombuffer(mapping, np.uint8))[0]

    @classmethod
    def of(cls, array: object) -> _Pages | None:
        """Those under `array`, or None where letting go is impossible or would lose what was written.

        A private mapping keeps what was written to it in the very pages.
        """
        mode = None
        while isinstance(array, np.ndarray):
            mode = array.mode if isinstance(array, np.memmap) else mode
            array = array.base
        if not isinstance(array, mmap.mmap) or mode not in ("r", "r+", "w+") or not hasattr(mmap, "MADV_DONTNEED"):
            return None
        return cls(array)

    def let_go(self, part: np.ndarray[Any, Any]) -> None:
        low, high = (end - self.address for end in _bounds(part))
        low -= low % mmap.PAGESIZE
        if 0 <= low < high <= len(self.mapping):
            self.mapping.madvise(mmap.MADV_DONTNEED, low, high - low)


def _bounds(part: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The addresses of the first byte of `part` and of the first beyond it."""
    start = int(part.__array_interface__["data"][0])
    steps = [(size - 1) * stride for size, stride in zip(part.shape, part.strides, strict=True)]
    return start + sum(min(0, step) for step in steps), start + sum(max(0, step) for step in steps) + part.itemsize


def _first(blocks: object) -> Piece:
    if not isinstance(blocks, Iterable):
        raise ClisonixError(f"The function x returns a {type(blocks).__name__}; it must return blocks of rows.")
    for block in blocks:
        return block  # type: ignore[no-any-return]
    raise ClisonixError("x has no row blocks; give at least one.")
