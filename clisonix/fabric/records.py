"""Samples that lie in a file record by record, seen as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clisonix.fabric.stream import Int16Array


class Records:
    """`(channels, time)` samples of a file in which each record holds a stretch of every channel in turn.

    Nothing is copied until a stretch is asked for, `records[:, low:high]`, and then that stretch alone.

    Attributes:
        shape: `(channels, time)`.
        dtype: int16.
        ndim: 2.
        size: values in all.
    """

    ndim = 2
    dtype = np.dtype(np.int16)

    def __init__(self, records: Int16Array, at: Sequence[int], per_record: int) -> None:
        """Look at channels of the records.

        Args:
            records: `(records, samples of all channels)`.
            at: first sample of each channel within a record.
            per_record: samples of one channel.
        """
        self.shape = (len(at), len(records) * per_record)
        self.size = self.shape[0] * self.shape[1]
        self._per = per_record
        # Channels that lie side by side are copied together.
        starts = [i for i in range(len(at)) if i == 0 or at[i] != at[i - 1] + per_record]
        self._runs = [
            (first, stop, records[:, at[first] : at[first] + (stop - first) * per_record].reshape(
                len(records), stop - first, per_record
            ))
            for first, stop in zip(starts, [*starts[1:], len(at)], strict=True)
        ]  # fmt: skip

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Int16Array:  # noqa: ANN401 - whatever NumPy takes
        """A part as NumPy would cut it; only that of `[:, low:high]` copies no more than it gives."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice):
            low, high, step = key[1].indices(self.shape[1])
            if step == 1:
                return self.stretch(low, max(high, low))
        part: Int16Array = self.__array__()[key]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Int16Array:  # noqa: ANN401
        """All of it in memory."""
        found: Int16Array = self.stretch(0, self.shape[1]).astype(dtype or np.int16, copy=False)
        return found

    def stretch(self, low: int, high: int) -> Int16Array:
        """The samples `[low, high)` of all channels, copied."""
        out = np.empty((self.shape[0], high - low), np.int16)
        per = self._per
        first, last = -(-low // per), high // per  # whole records
        for top, bottom, view in self._runs:
            into = out[top:bottom]
            if first > last:  # inside one record
                into[...] = view[last, :, low - last * per : high - last * per]
                continue
            head, tail = first * per - low, last * per - low
            if head:
                into[:, :head] = view[first - 1, :, per - head :]
            if last > first:
                whole = into[:, head:tail].reshape(bottom - top, last - first, per)
                whole[...] = view[first:last].swapaxes(0, 1)
            if tail < high - low:
                into[:, tail:] = view[last, :, : high - low - tail]
        return out

    def windows(self, length: int) -> RecordWindows:
        """Every window of this length, copied when it is indexed."""
        return RecordWindows(self, length)


class RecordWindows:
    """Windows of `Records` by their first sample."""

    def __init__(self, records: Records, length: int) -> None:
        self._stretch, self._length = records.stretch, length
        self._count = records.shape[1] - length + 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, begin: int) -> Int16Array:
        return self._stretch(begin, begin + self._length)
