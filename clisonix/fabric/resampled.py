"""A stream at another rate, made piece by piece when windows first ask for it, and kept."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from clisonix.fabric.buffers import Buffers
from clisonix.fabric.resample import Resampler
from clisonix.fabric.stream import BoolArray, FloatArray, Stream
from clisonix.fabric.stretch import stretch

_PIECE = 4096  # outputs of all channels that are made at once: input and output lie in a cache

_NEARLY = 0.9  # share of pieces from which on the rest is made too


class Resampled:
    """All outputs of a `Resampler` over a stream.

    Windows overlap and epochs repeat, so most outputs are asked for many times: each is computed once. Pieces always
    begin at the same outputs, so their bits do not depend on which window came first. Threads that need the same
    piece at the same time both make it, alike.

    Attributes:
        values: `(channels, outputs)`, 0 where an output is not trusted; to be read after `prepare` only.
        complete: whether everything was made.
    """

    def __init__(self, stream: Stream, through: Resampler) -> None:
        """Compute nothing yet; memory is taken as it is written."""
        self.stream, self.through = stream, through
        channels = len(stream.samples)
        self.values: FloatArray = np.empty((channels, self.length_of(stream, through)), np.float32)
        self._size = max(1, _PIECE // channels // through.block) * through.block
        count = -(-self.values.shape[1] // self._size)
        self._made = np.zeros(count, np.bool_)
        self._trusted: dict[int, BoolArray] = {}  # of pieces where not all outputs are
        self._starts: list[int] = []  # of runs that are not trusted in some channel, and their ends
        self._ends: list[int] = []
        self.complete = False

    @staticmethod
    def length_of(stream: Stream, through: Resampler) -> int:
        """Outputs that lie between a stream's first and last sample."""
        return (stream.length - 1) * through.up // through.down + 1

    @staticmethod
    def bytes_of(stream: Stream, through: Resampler) -> int:
        """Memory once everything was asked for."""
        return 4 * len(stream.samples) * Resampled.length_of(stream, through)

    def prepare(self, begin: int, stop: int, scratch: Buffers) -> None:
        """Make what `values[:, begin:stop]` lacks."""
        for piece in range(begin // self._size, -(-stop // self._size)):
            if not self._made[piece]:
                self._make(piece, scratch)
        # What no window asks for, at an end say, must not keep every later one waiting for this question.
        if not self.complete and np.mean(self._made) >= _NEARLY:
            for piece in np.flatnonzero(~self._made).tolist():
                self._make(piece, scratch)
            self._find_runs()
            self.complete = True

    def sure(self, begin: int, stop: int) -> bool:
        """Whether all of `values[:, begin:stop]` rests on measured values alone; once it is `complete`."""
        return bisect_right(self._ends, begin) == bisect_left(self._starts, stop)

    def trusted(self, begin: int, stop: int) -> BoolArray:
        """`(channels, stop - begin)`, which of these outputs rest on measured values alone."""
        first, last = begin // self._size, -(-stop // self._size)
        parts = []
        for piece in range(first, last):
            low, high = self._bounds(piece)
            sure = self._trusted.get(piece)
            parts.append(np.ones((len(self.values), high - low), np.bool_) if sure is None else sure)
        low = first * self._size
        found: BoolArray = np.concatenate(parts, axis=1)[:, begin - low : stop - low]
        return found

    def _find_runs(self) -> None:
        doubtful = np.zeros(self.values.shape[1] + 2, np.int8)
        for piece, sure in self._trusted.items():
            low, high = self._bounds(piece)
            doubtful[1 + low : 1 + high] = ~sure.all(axis=0)
        change = np.diff(doubtful)
        self._starts = np.flatnonzero(change == 1).tolist()
        self._ends = np.flatnonzero(change == -1).tolist()

    def _bounds(self, piece: int) -> tuple[int, int]:
        low = piece * self._size
        return low, min(low + self._size, self.values.shape[1])

    def _make(self, piece: int, scratch: Buffers) -> None:
        begin, stop = self._bounds(piece)
        low, high = self.through.span(begin, stop - begin)
        x, _ = scratch.take("piece", (1, len(self.values), high - low))
        measured = stretch(self.stream, low, x[0])
        if measured is not None:
            np.copyto(x[0], 0.0, where=~measured)
        part = self.values[None, :, begin:stop]
        self.through.outputs(np.array([begin]), x, part, scratch)
        if measured is not None:
            sure = self.through.trusted(begin, measured, stop - begin)
            if not sure.all():
                np.copyto(part[0], 0.0, where=~sure)
                self._trusted[piece] = sure
        self._made[piece] = True


def keep(
    streams: list[tuple[Stream, Resampler] | None], budget: int
) -> tuple[list[Resampled | None], npt.NDArray[np.int64]]:
    """Those streams whose outputs fit the budget together, in order, and how many outputs each has (0 without)."""
    found: list[Resampled | None] = []
    for entry in streams:
        fits = entry is not None and entry[0].length > 0 and Resampled.bytes_of(*entry) <= budget
        found.append(Resampled(*entry) if entry is not None and fits else None)
        if entry is not None and fits:
            budget -= Resampled.bytes_of(*entry)
    return found, np.array([0 if r is None else r.values.shape[1] for r in found], np.int64)
