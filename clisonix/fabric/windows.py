"""Which stretch of which recording each window is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.stream import Label, Recording

_SLACK = 1e-9  # seconds; window edges are sums of decimal fractions


@dataclass(frozen=True)
class WindowTable:
    """One row a window.

    Attributes:
        recording: `(windows,)` index into the recordings.
        start_s: `(windows,)` on the recording's clock.
        label: `(windows,)` index into `classes`, -1 where there is none.
    """

    recording: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    label: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.recording)

    @cached_property
    def digest(self) -> str:
        """Hash of the table: two fabrics with the same digest cut the same windows."""
        parts = (self.recording.tobytes(), self.start_s.tobytes(), self.label.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()


def sliding(recording: Recording, window_s: float, hop_s: float) -> list[float]:
    """Starts of whole windows; a recording shorter than one window gives one window, which is partly masked."""
    span_s = recording.end_s - recording.start_s
    if span_s <= 0:
        return []
    count = max(1, int(np.floor((span_s - window_s) / hop_s + _SLACK)) + 1)
    return [recording.start_s + i * hop_s for i in range(count)]


def tabulate(
    recordings: Sequence[Recording],
    *,
    window_s: float,
    hop_s: float | None,
    around_events: bool,
    offset_s: float,
    classes: Sequence[Label] | None,
) -> WindowTable:
    """List every window.

    Args:
        recordings: what to cut.
        window_s: length.
        hop_s: step between starts; None gives one window a recording, from its start.
        around_events: cut one window per event instead, `offset_s` after it; an event whose window lies less than
            half inside the recording is left out.
        offset_s: start of the window relative to the event.
        classes: label values in the order of their index; None leaves all labels at -1.

    Raises:
        ClisonixError: a length or hop that is not positive, no window at all, or a label that is no class.
    """
    for name, value in (("window", window_s), ("hop", hop_s)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ClisonixError(f"{name} is {value} s, expected a positive number of seconds")
    rows: list[tuple[int, float, int]] = []
    index = None if classes is None else {label: i for i, label in enumerate(classes)}
    for r, recording in enumerate(recordings):
        if around_events:
            for event in recording.events:
                start_s = event.time_s + offset_s
                # An event at the very edge has no signal to learn from.
                inside = min(start_s + window_s, recording.end_s) - max(start_s, recording.start_s)
                if inside >= window_s / 2:
                    rows.append((r, start_s, _class(index, event.label, recording)))
        else:
            starts = [recording.start_s] if hop_s is None else sliding(recording, window_s, hop_s)
            rows += [(r, start_s, _class(index, recording.label, recording)) for start_s in starts]
    if not rows:
        what = "events with enough signal around them" if around_events else "windows"
        raise ClisonixError(f"the {len(recordings)} recordings hold no {what} of {window_s:g} s")
    columns = list(zip(*rows, strict=True))
    return WindowTable(np.array(columns[0]), np.array(columns[1]), np.array(columns[2]))


def _class(index: dict[Label, int] | None, label: Label | None, recording: Recording) -> int:
    if index is None or label is None:
        return -1
    if label not in index:
        raise ClisonixError(f"{recording.name} has the label {label!r}, which is none of {list(index)}")
    return index[label]
