"""One live stream on its way to windows: chunks in any order of arrival become samples on a grid."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, StreamInfo
from clisonix.fabric.stream import BoolArray, FloatArray

_SETTLE_S = 2.0  # seconds over which jitter is averaged
_SLIP = 0.75  # cells


class LiveStream(NamedTuple):
    """What a live stream will send.

    Attributes:
        channels: how many.
        rate_hz: nominal rate, the rate of its grid.
        jitter_s: how far single stamps are off the true time (Bluetooth bursts: tens of milliseconds). Samples are
            then placed by their index, steered by the mean of the stamps; a larger deviation is a gap. With 0 every
            sample goes to the cell nearest to its stamp.
    """

    channels: int
    rate_hz: float
    jitter_s: float = 0.0

    @classmethod
    def of(cls, info: StreamInfo, jitter_s: float = 0.0) -> LiveStream:
        """From what a source says of its stream.

        Raises:
            ClisonixError: an irregular stream, which has no grid.
        """
        if info.rate_hz is None:
            raise ClisonixError(f"{info.name} is irregular: it has no grid to put it on, so it cannot be woven")
        return cls(len(info.channels), info.rate_hz, jitter_s)

    @property
    def bytes_per_s(self) -> float:
        """Of samples and their stamps."""
        return self.rate_hz * (4 * self.channels + 8)


class _Piece(NamedTuple):
    """Samples that know their cells."""

    cells: npt.NDArray[np.int64]
    samples: FloatArray

    @property
    def nbytes(self) -> int:
        return self.cells.nbytes + self.samples.nbytes


class Lane:
    """Chunks of one stream between their arrival and the last window that needs them.

    What comes out depends on which chunks arrived before `take_until`, never on their order: they wait in a heap by
    index.

    Attributes:
        frontier_s: time of the newest sample that arrived.
        earliest_s: time of the oldest that is held or was taken first.
        largest: bytes of the largest chunk so far.
        nbytes: of samples, stamps and cells that are held.
    """

    def __init__(self, name: str, spec: LiveStream) -> None:
        self.name, self.spec = name, spec
        self.frontier_s = -math.inf
        self.end_s = -math.inf
        self.earliest_s = math.inf
        self.largest = 0
        self.nbytes = 0
        self._waiting: list[tuple[int, int, Chunk]] = []
        self._ticket = itertools.count()
        self._pieces: list[_Piece] = []
        self._next_index = -1
        self._zero_s: float | None = None  # time of cell 0: the first sample taken
        self._shift = 0.0  # cell minus index, as the stamps have it on average
        self._offset = 0  # cell minus index, as samples are placed

    def put(self, chunk: Chunk, taken_until_s: float) -> Chunk | None:
        """Keep a chunk for later.

        Returns:
            the part that comes too late because samples after it are in windows already; None if there is none.

        Raises:
            ClisonixError: a chunk of another shape, or stamps that are not finite.
        """
        self._check(chunk)
        late = None
        times_s = chunk.times_s
        cut = min(max(0, self._next_index - chunk.index), len(times_s))
        if len(times_s) and times_s[0] < taken_until_s:
            # Of a chunk that straddles the line the rest still counts.
            cut = max(cut, int(np.flatnonzero(times_s < taken_until_s)[-1]) + 1)
        if cut > 0:
            late = Chunk(chunk.stream, chunk.samples[:, :cut], times_s[:cut], chunk.index)
            chunk = Chunk(chunk.stream, chunk.samples[:, cut:], times_s[cut:], chunk.index + cut)
        if len(chunk.times_s) > 0:
            if chunk.samples.base is not None:  # a view would keep an array alive that nobody counts
                chunk = Chunk(chunk.stream, chunk.samples.copy(), chunk.times_s.copy(), chunk.index)
            heapq.heappush(self._waiting, (chunk.index, next(self._ticket), chunk))
            self.nbytes += chunk.samples.nbytes + chunk.times_s.nbytes
            first_s, last_s = float(chunk.times_s[0]), float(chunk.times_s[-1])
            self.earliest_s = min(self.earliest_s, first_s)
            self.frontier_s = max(self.frontier_s, last_s)
            self.end_s = max(self.end_s, last_s + 1 / self.spec.rate_hz)
            self.largest = max(self.largest, chunk.samples.nbytes + chunk.times_s.nbytes)
        return late

    def take_until(self, until_s: float) -> None:
        """Put every waiting chunk that begins before `until_s` on the grid."""
        while self._waiting and float(self._waiting[0][2].times_s[0]) < until_s:
            chunk = heapq.heappop(self._waiting)[2]
            self.nbytes -= chunk.samples.nbytes + chunk.times_s.nbytes
            skip = max(0, self._next_index - chunk.index)  # sent twice, after a reconnection
            if skip >= len(chunk.times_s):
                continue
            cells = self._cells(chunk.times_s[skip:], chunk.index + skip)
            piece = _Piece(cells, chunk.samples[:, skip:])
            self._pieces.append(piece)
            self.nbytes += piece.nbytes
            self._next_index = chunk.index + len(chunk.times_s)

    def cut(self, start_s: float, samples: int) -> tuple[FloatArray, BoolArray]:
        """Values and mask `(channels, samples)` from the cell nearest to `start_s` on."""
        values = np.zeros((self.spec.channels, samples), np.float32)
        measured = np.zeros(values.shape, np.bool_)
        begin = self._begin(start_s)
        for piece in self._pieces:
            inside = (piece.cells >= begin) & (piece.cells < begin + samples)
            if inside.any():
                at = piece.cells[inside] - begin
                values[:, at] = piece.samples[:, inside]
                measured[:, at] = np.isfinite(piece.samples[:, inside])
        values[~measured] = 0.0
        return values, measured

    def drop_before(self, start_s: float) -> None:
        """Forget what no window from `start_s` on needs."""
        begin = self._begin(start_s)
        kept = [piece for piece in self._pieces if len(piece.cells) and int(piece.cells.max()) >= begin]
        self.nbytes -= sum(p.nbytes for p in self._pieces) - sum(p.nbytes for p in kept)
        self._pieces = kept

    @property
    def next_s(self) -> float:
        """Time of the oldest sample that is held; infinite without any."""
        times = [float(self._waiting[0][2].times_s[0])] if self._waiting else []
        if self._pieces and self._zero_s is not None:
            times.append(self._zero_s + int(self._pieces[0].cells.min()) / self.spec.rate_hz)
        return min(times, default=math.inf)

    def _begin(self, start_s: float) -> int:
        return 0 if self._zero_s is None else round((start_s - self._zero_s) * self.spec.rate_hz)

    def _cells(self, times_s: npt.NDArray[np.float64], index: int) -> npt.NDArray[np.int64]:
        rate_hz, jitter_s = self.spec.rate_hz, self.spec.jitter_s
        if self._zero_s is None:
            self._zero_s = float(times_s[0])
            if jitter_s:
                self._zero_s = float(np.mean(times_s - np.arange(len(times_s)) / rate_hz))
            self._offset, self._shift = -index, -float(index)
        by_time = (times_s - self._zero_s) * rate_hz
        if jitter_s == 0:
            return np.rint(by_time).astype(np.int64)
        cells = np.empty(len(times_s), np.int64)
        # A step that jitter cannot explain ends a stretch.
        ends = [*(np.flatnonzero(np.diff(times_s) > jitter_s + 1 / rate_hz) + 1), len(times_s)]
        first = 0
        for end in ends:
            numbers = np.arange(index + first, index + end)
            off = float(np.mean(by_time[first:end] - numbers)) - self._shift
            if abs(off) > max(jitter_s * rate_hz, 1.0):
                self._shift += off
                self._offset = round(self._shift)
            else:
                self._shift += off * (1 - math.exp(-(end - first) / (rate_hz * _SETTLE_S)))
                # A sample is dropped or left out where drift has added up to one, not to and fro at one half.
                if abs(self._shift - self._offset) > _SLIP:
                    self._offset = round(self._shift)
            cells[first:end] = numbers + self._offset
            first = end
        return cells

    def _check(self, chunk: Chunk) -> None:
        if chunk.samples.shape != (self.spec.channels, len(chunk.times_s)):
            raise ClisonixError(
                f"{self.name}: a chunk has samples of shape {chunk.samples.shape} and {len(chunk.times_s)} stamps, "
                f"expected ({self.spec.channels}, stamps)"
            )
        if not np.isfinite(chunk.times_s).all():
            raise ClisonixError(f"{self.name}: a chunk has stamps that are not finite numbers")
