"""A source in the units that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from clisonix.fabric.source import Chunk, ClockedSource, Float64Array, Source, SourceInfo, StreamInfo
from clisonix.fabric.stream import Event
from clisonix.fabric.units import check_asked, choose, conversion, known


class Converted:
    """Another source, each channel in the unit asked for that measures the same; others stay, with a note.

    Example:
        >>> from clisonix.fabric.sources.iterable import IterableSource
        >>> eeg = StreamInfo("eeg", ("cz",), ("mV",), 256.0)
        >>> source = Converted(IterableSource([eeg], lambda: iter([("eeg", np.ones((1, 1)))])), ["uV"])
        >>> [float(chunk.samples[0, 0]) for chunk in source.chunks()]
        [1000.0]
    """

    def __init__(self, source: Source, units: Sequence[str]) -> None:
        """Wrap a source.

        Args:
            source: any.
            units: at most one per quantity, such as `["uV", "uS", "g", "degC"]`.

        Raises:
            ClisonixError: a unit that is not known, or two for one quantity.
        """
        self._source = source
        self._asked = check_asked([units] if isinstance(units, str) else units)

    def __repr__(self) -> str:
        return f"Converted({self._source!r}, {list(self._asked)})"

    def inspect(self) -> SourceInfo:
        """As the source says, in the new units."""
        info = self._source.inspect()
        strange = sorted({unit or "no unit" for s in info.streams for unit in s.units if not known(unit)})
        notes = (f"left as they are, since their unit is not known: {', '.join(strange)}",) if strange else ()
        streams = tuple(replace(s, units=tuple(choose(u, self._asked) for u in s.units)) for s in info.streams)
        return replace(info, streams=streams, notes=info.notes + notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        scales = {s.name: self._scale(s) for s in self._source.inspect().streams}
        for chunk in self._source.chunks(streams, seconds):
            scale = scales[chunk.stream]
            if scale is not None:
                samples = (chunk.samples * scale[0] + scale[1]).astype(np.float32)
                chunk = replace(chunk, samples=samples)
            yield chunk

    def events(self) -> list[Event]:
        """Those of the source."""
        return self._source.events()

    def clock_offsets(self) -> Mapping[str, Float64Array]:
        """Those of the source; none for one whose clocks were not compared."""
        return self._source.clock_offsets() if isinstance(self._source, ClockedSource) else {}

    def _scale(self, stream: StreamInfo) -> tuple[Float64Array, Float64Array] | None:
        """Factor and summand `(channels, 1)`; None when nothing changes."""
        found = [conversion(u, choose(u, self._asked)) or (1.0, 0.0) for u in stream.units]
        if all(f == (1.0, 0.0) for f in found):
            return None
        factors, summands = np.array(found, np.float64).T
        return factors[:, None], summands[:, None]
