"""Columns of numbers in text, a block of whole lines at a time, at the speed of C."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from clisonix.fabric.source import Float64Array, SourceError

_BLOCK = 1 << 20
_LONGEST_LINE = 1 << 24


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzip."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped:
                with gzip.open(file, "rb") as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is truncated or damaged"
        raise SourceError(path, f"cannot be read ({reason})") from error


class Table:
    """Reads rows of `width` cells from where the file stands on."""

    def __init__(self, path: Path, file: IO[bytes], width: int, separator: bytes = b",", line: int = 1) -> None:
        """Remember where to read.

        Args:
            path: for errors.
            file: opened, behind the header.
            width: cells of a row.
            separator: one byte between cells; if it is no comma, a comma may be the decimal mark.
            line: number of the next line, from 1.
        """
        self._path, self._file, self._width, self._separator, self._line = path, file, width, separator, line

    def blocks(self) -> Iterator[Float64Array]:
        """Rows `(rows, width)`; an empty cell, or one that is no number, is NaN.

        Raises:
            SourceError: a row with another number of cells, with the number of its line.
        """
        rest = b""
        while block := self._file.read(_BLOCK):
            block = rest + block
            cut = block.rfind(b"\n") + 1
            if cut == 0 and len(block) > _LONGEST_LINE:
                raise SourceError(self._path, f"line {self._line} is longer than {_LONGEST_LINE} bytes")
            rest = block[cut:]
            if cut:
                yield self._parse(block[:cut])
        if rest.strip():
            yield self._parse(rest + b"\n")

    def _parse(self, block: bytes) -> Float64Array:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = block.count(b"\n")
        raw = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(raw == 10)
        cells = np.diff(np.searchsorted(np.flatnonzero(raw == self._separator[0]), ends), prepend=0) + 1
        blank = np.diff(ends, prepend=-1) == 1
        wrong = np.flatnonzero((cells != self._width) & ~blank)
        if wrong.size:
            raise SourceError(
                self._path,
                f"line {self._line + int(wrong[0])} has {int(cells[wrong[0]])} cells, expected {self._width}; "
                "the file may be truncated",
            )
        if blank.any():
            block = b"\n".join(line for line in block.split(b"\n") if line) + b"\n"
        rows = lines - int(blank.sum())
        values = self._fast(block, rows)
        self._line += lines
        return values if values is not None else self._slow(block)

    def _fast(self, block: bytes, rows: int) -> Float64Array | None:
        mark = self._separator
        text = block.replace(b",", b".") if mark != b"," else block
        text = text.replace(b"\n", mark)
        if mark + mark in text or text.startswith(mark):
            text = (b"nan" + text if text.startswith(mark) else text).replace(mark + mark, mark + b"nan" + mark)
            text = text.replace(mark + mark, mark + b"nan" + mark)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                values: Float64Array = np.fromstring(text[:-1], np.float64, sep=mark.decode("latin-1"))
            except (DeprecationWarning, ValueError):
                return None
        return values.reshape(rows, self._width) if values.size == rows * self._width else None

    def _slow(self, block: bytes) -> Float64Array:
        values = [[_number(cell) for cell in line.split(self._separator)] for line in block.split(b"\n") if line]
        return np.array(values, np.float64).reshape(len(values), self._width)


def read_line(path: Path, file: IO[bytes]) -> str:
    """One line of a header, without its end.

    Raises:
        SourceError: it is no text, or without end.
    """
    raw = file.readline(_LONGEST_LINE)
    if b"\0" in raw or len(raw) == _LONGEST_LINE:
        raise SourceError(path, "is not a text file", 0)
    return io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", "replace").read().strip("\r\n")


def _number(cell: bytes) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
