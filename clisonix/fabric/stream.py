"""What a recording is: named streams on one clock, with events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Label = str | int


@dataclass(frozen=True)
class Event:
    """Something that happened at one instant.

    Attributes:
        time_s: when, on the recording's clock.
        label: what.
    """

    time_s: float
    label: Label


@dataclass(frozen=True)
class Stream:
    """Samples of one modality on a uniform grid.

    Attributes:
        samples: `(channels, time)` float32, contiguous. A value that is not finite was not measured: lost, not
            yet started, or saturated. It is masked, never interpolated.
        rate_hz: grid rate.
        start_s: time of the first sample, on the recording's clock.
        channels: a name per channel.
        unit: physical unit, `""` when the file does not say.
    """

    samples: FloatArray
    rate_hz: float
    start_s: float = 0.0
    channels: tuple[str, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        if self.samples.ndim != 2:
            raise ClisonixError(f"samples have shape {self.samples.shape}, expected (channels, time)")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ClisonixError(f"a stream has the rate {self.rate_hz} Hz, expected a positive number")
        if self.channels and len(self.channels) != len(self.samples):
            raise ClisonixError(f"{len(self.channels)} channel names for {len(self.samples)} channels")

    @property
    def length(self) -> int:
        """Number of samples in time."""
        return int(self.samples.shape[1])

    @property
    def end_s(self) -> float:
        """End of the last sample's period."""
        return self.start_s + self.length / self.rate_hz

    @cached_property
    def valid(self) -> BoolArray | None:
        """`(channels, time)`, False where a value is not finite; None when every value is finite."""
        finite = np.isfinite(self.samples)
        return None if finite.all() else finite

    @property
    def masked(self) -> int:
        """How many values are masked."""
        return 0 if self.valid is None else int(self.valid.size - np.count_nonzero(self.valid))


@dataclass(frozen=True)
class Recording:
    """Streams that share one clock.

    Attributes:
        name: shown to the user; file names and patient names do not belong here.
        streams: modality to stream. A modality that this recording lacks is simply absent.
        events: instants with labels, in order of time.
        label: what the whole recording is an example of, if anything.
        fields: what recordings are split by (subject, run, take, ...).
    """

    name: str
    streams: Mapping[str, Stream]
    events: Sequence[Event] = ()
    label: Label | None = None
    fields: Mapping[str, Label] = field(default_factory=dict)

    @property
    def start_s(self) -> float:
        """Start of the earliest stream."""
        return min((s.start_s for s in self.streams.values()), default=0.0)

    @property
    def end_s(self) -> float:
        """End of the latest stream."""
        return max((s.end_s for s in self.streams.values()), default=0.0)
