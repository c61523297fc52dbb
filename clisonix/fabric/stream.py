"""What a recording is: named streams on one clock, with events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.gaps import Gaps

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]
Label = str | int


class LaidOut(Protocol):
    """int16 samples that lie somewhere in another order: `samples[:, low:high]` gives them in this one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(channels, time)`."""

    @property
    def ndim(self) -> int:
        """2."""

    @property
    def size(self) -> int:
        """Values in all."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """int16."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Int16Array: ...  # noqa: ANN401 - whatever NumPy takes


Samples = FloatArray | Int16Array | LaidOut


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

    Samples may be 16-bit integers as they lie in a file, mapped into memory or not: they stay as they are, and
    only the stretches that windows are cut from become `samples * scale + offset` in float32.

    Attributes:
        samples: `(channels, time)` float32 or int16, contiguous in time. A value that is not finite was not
            measured: lost, not yet started, or saturated. It is masked, never interpolated.
        rate_hz: grid rate.
        start_s: time of the first sample, on the recording's clock.
        channels: a name per channel.
        unit: physical unit, `""` when the file does not say.
        scale: physical units per step of an integer sample, one number or `(channels,)`.
        offset: physical value of the integer 0, one number or `(channels,)`.
        missing: the integer that stands for a value that was not measured, if there is one.
    """

    samples: Samples
    rate_hz: float
    start_s: float = 0.0
    channels: tuple[str, ...] = ()
    unit: str = ""
    scale: float | FloatArray = 1.0
    offset: float | FloatArray = 0.0
    missing: int | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 2:
            raise ClisonixError(f"samples have shape {self.samples.shape}, expected (channels, time)")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ClisonixError(f"a stream has the rate {self.rate_hz} Hz, expected a positive number")
        if self.channels and len(self.channels) != len(self.samples):
            raise ClisonixError(f"{len(self.channels)} channel names for {len(self.samples)} channels")
        integer = np.issubdtype(self.samples.dtype, np.integer)
        if integer and self.samples.dtype != np.int16:
            raise ClisonixError(f"samples are {self.samples.dtype}, expected float32 or int16")
        plain = self.missing is None and np.ndim(self.scale) == np.ndim(self.offset) == 0
        if not integer and not (plain and self.scale == 1.0 and self.offset == 0.0):
            raise ClisonixError(
                "scale, offset and missing belong to int16 samples; float32 samples are physical units"
            )
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if np.ndim(value) and np.shape(value) != (len(self.samples),):
                raise ClisonixError(f"{name} has shape {np.shape(value)} for {len(self.samples)} channels")

    @property
    def length(self) -> int:
        """Number of samples in time."""
        return int(self.samples.shape[1])

    @property
    def end_s(self) -> float:
        """End of the last sample's period."""
        return self.start_s + self.length / self.rate_hz

    def measured(self, low: int, high: int) -> BoolArray:
        """`(channels, high - low)`, False where a value was not measured."""
        part = self.samples[:, low:high]
        if part.dtype != np.int16:
            return np.isfinite(part)
        return np.ones(part.shape, np.bool_) if self.missing is None else part != self.missing

    @cached_property
    def gaps(self) -> Gaps:
        """Where values are missing, found out as far as somebody asks."""
        if self.samples.dtype == np.int16 and self.missing is None:
            return Gaps(0, self.measured)
        return Gaps(self.length, self.measured)

    @cached_property
    def valid(self) -> BoolArray | None:
        """`(channels, time)`, False where a value was not measured; None when every value was."""
        measured = self.measured(0, self.length)
        return None if measured.all() else measured

    @property
    def masked(self) -> int:
        """How many values are masked."""
        return self.gaps.count()


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
