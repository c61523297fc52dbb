"""Chunks that a program makes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Float64Array, SourceInfo, StreamInfo, wanted
from clisonix.fabric.sources.base import Pending, even_times
from clisonix.fabric.stream import Event

Piece = tuple[str, npt.ArrayLike] | tuple[str, npt.ArrayLike, npt.ArrayLike]


class IterableSource:
    """A source over pieces `(stream, samples)` or `(stream, samples, times_s)`, samples `(channels, time)`.

    Example:
        >>> stream = StreamInfo("eeg", ("c3", "c4"), ("uV", "uV"), 256.0)
        >>> source = IterableSource([stream], lambda: iter([("eeg", np.zeros((2, 512)))]))
        >>> [chunk.samples.shape for chunk in source.chunks(seconds=1.0)]
        [(2, 256), (2, 256)]
    """

    def __init__(
        self,
        streams: Sequence[StreamInfo],
        pieces: Callable[[], Iterable[Piece]],
        events: Sequence[Event] = (),
    ) -> None:
        """Describe what the pieces are.

        Args:
            streams: every stream that occurs.
            pieces: called for each pass; gives the pieces in order, of any length.
            events: instants, if there are any.

        Raises:
            ClisonixError: no stream, or two of one name.
        """
        if not streams or len({s.name for s in streams}) < len(streams):
            raise ClisonixError("a source needs at least one stream, and a name of its own for each")
        self._info = SourceInfo(tuple(streams), len(events), None, "iterator")
        self._pieces = pieces
        self._events = sorted(events, key=lambda event: event.time_s)

    def __repr__(self) -> str:
        return f"IterableSource({', '.join(s.name for s in self._info.streams)})"

    def inspect(self) -> SourceInfo:
        """What was said at the beginning."""
        return self._info

    def events(self) -> list[Event]:
        """What was given at the beginning."""
        return list(self._events)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`.

        Raises:
            ClisonixError: also if a piece is of no known stream or does not have its shape.
        """
        want = wanted(self._info, streams, seconds)
        pending = {info.name: Pending(info, want) for info in want.streams}
        counts: dict[str, int] = {}
        for name, values, *stamps in self._pieces():
            info = self._info.stream(name)
            samples = np.asarray(values, np.float32)
            if samples.ndim != 2 or len(samples) != len(info.channels):
                raise ClisonixError(
                    f"a piece of {name} has shape {samples.shape}, expected ({len(info.channels)}, time)"
                )
            at = counts.get(name, 0)
            counts[name] = at + samples.shape[1]
            if name in pending:
                yield from pending[name].add(samples, _times(info, stamps, at, samples.shape[1]))
        for collected in pending.values():
            yield from collected.rest()


def _times(info: StreamInfo, stamps: Sequence[npt.ArrayLike], at: int, count: int) -> Float64Array:
    if not stamps:
        if info.rate_hz is None:
            raise ClisonixError(f"{info.name} is irregular, so its pieces need times")
        return even_times(at, count, info.rate_hz, info.start_s or 0.0)
    times_s = np.asarray(stamps[0], np.float64)
    if times_s.shape != (count,):
        raise ClisonixError(f"a piece of {info.name} has {count} samples and times of shape {times_s.shape}")
    return times_s
