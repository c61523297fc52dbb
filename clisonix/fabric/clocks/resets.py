"""Where a clock was set anew: steps of an offset that stay."""

from __future__ import annotations

import numpy as np

from clisonix.fabric.clocks.line import FloatArray, scale

_AROUND = 5  # measurements on each side that say what the offset is


def split_at_resets(own: FloatArray, offsets: FloatArray, step: float) -> list[tuple[int, int]]:
    """Stretches without a reset, as `(start, stop)`.

    A reset is a step of the offset by more than `step` that the following measurements share. One measurement alone
    is an outlier and stays where it is: a robust line can stand it.

    Args:
        own: `(n,)` own times in the order of recording.
        offsets: `(n,)` other clock's time minus own time.
        step: seconds.
    """
    n = len(own)
    jumps = np.flatnonzero(np.abs(np.diff(offsets)) > step) + 1
    if not len(jumps):
        return [(0, n)]
    starts = [0]
    for i in jumps.tolist():
        before = offsets[max(starts[-1], i - _AROUND) : i]
        after = offsets[i : i + _AROUND]
        if len(before) == 0:
            continue
        # The last measurement has nobody to agree with it, unless the own clock was seen to jump along.
        lone = len(after) == 1 and abs(own[i] - own[i - 1]) < abs(offsets[i] - offsets[i - 1]) / 2
        level = float(np.median(after))
        width = max(step, 10.0 * scale(before), 10.0 * scale(after))
        if not lone and abs(level - float(np.median(before))) > width and abs(float(offsets[i]) - level) < width:
            starts.append(i)
    return list(zip(starts, [*starts[1:], n], strict=True))
