"""Which stretches of a stream have every value, found out once and only where somebody looks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_BLOCK = 4096  # samples; small beside a file, large beside what asking costs
_UNKNOWN, _WHOLE, _GAPPY = 0, 1, 2


class Gaps:
    """One byte for each block of samples: not looked at yet, whole, or with something missing.

    A stream that is mapped from a file is read no further than its windows reach, and a stream without gaps costs a
    look at a few bytes per window instead of a look at every value. Threads may ask at once: what they find out is
    the same.
    """

    def __init__(self, length: int, measured: Callable[[int, int], npt.NDArray[np.bool_]]) -> None:
        """Begin without having looked at anything.

        Args:
            length: samples of the stream; 0 for a stream that cannot have gaps.
            measured: the mask `(channels, high - low)` of the samples `[low, high)`.
        """
        self._length, self._measured = length, measured
        self._state = bytearray(-(-length // _BLOCK))
        self._whole = False

    @property
    def whole(self) -> bool:
        """Whether the stream is known to have no gap; False while some of it has not been looked at."""
        if not self._whole:
            self._whole = _UNKNOWN not in self._state and _GAPPY not in self._state
        return self._whole

    def between(self, low: int, high: int) -> bool:
        """Whether something may be missing in the samples `[low, high)`: False is certain."""
        first, last = low // _BLOCK, -(-high // _BLOCK)
        state = self._state[first:last]
        if _UNKNOWN in state:
            for block in range(first, last):
                if self._state[block] == _UNKNOWN:
                    whole = self._measured(block * _BLOCK, min((block + 1) * _BLOCK, self._length)).all()
                    self._state[block] = _WHOLE if whole else _GAPPY
            state = self._state[first:last]
        return _GAPPY in state

    def count(self) -> int:
        """How many values are missing in the whole stream."""
        missing = 0
        for low in range(0, self._length, _BLOCK):
            high = min(low + _BLOCK, self._length)
            if self.between(low, high):
                there = self._measured(low, high)
                missing += there.size - int(np.count_nonzero(there))
        return missing
