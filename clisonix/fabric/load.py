"""A whole source in memory, as a recording on one clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Clocks, Float64Array, Marker, Source, StreamInfo
from clisonix.fabric.stream import Event, FloatArray, Recording, Stream


def load(
    source: Source,
    clocks: Clocks | None = None,
    *,
    name: str = "recording",
    streams: Sequence[str] | None = None,
    rates: Mapping[str, float] | None = None,
) -> Recording:
    """Read all chunks and lay each stream on a uniform grid. Gaps stay empty: NaN, which is masked, never filled in.

    A sample goes to the nearest cell of its grid; of two in one cell the later stays.

    Args:
        source: any.
        clocks: brings the streams onto one clock; None takes what the source itself measured, as
            `clisonix.fabric.clocks.streams.clocks_of` makes it, and times as they are where that is nothing.
        name: of the recording.
        streams: names of those wanted; None takes all that have a rate.
        rates: rates of the grids of streams, instead of their own; an irregular stream needs one.

    Raises:
        ClisonixError: the source is damaged, an irregular stream was asked for without a rate, or times do
            not fit the rate.
    """
    info = source.inspect()
    rates = rates or {}
    for known in rates:
        info.stream(known)
    if streams is None:
        chosen = [s for s in info.streams if s.rate_hz is not None or s.name in rates]
    else:
        chosen = [info.stream(wanted) for wanted in streams]
    for stream in chosen:
        if stream.rate_hz is None and stream.name not in rates:
            raise ClisonixError(
                f"{stream.name} is irregular: give the rate of its grid, rates={{{stream.name!r}: ...}}"
            )
    samples: dict[str, list[FloatArray]] = {s.name: [] for s in chosen}
    times: dict[str, list[Float64Array]] = {s.name: [] for s in chosen}
    for chunk in source.chunks([s.name for s in chosen]) if chosen else ():
        samples[chunk.stream].append(chunk.samples)
        times[chunk.stream].append(chunk.times_s)
    stamps = {n: np.concatenate(parts) for n, parts in times.items() if parts}
    if clocks is None and any(s.gaps_s is None for s in chosen):
        clocks = _own_clocks(source, stamps)
    laid: dict[str, Stream] = {}
    common: dict[str, Float64Array] = {}
    for stream in chosen:
        if stream.name not in stamps:
            continue
        shared = stamps[stream.name] if clocks is None else clocks.to_common(stream.name, stamps[stream.name])
        common[stream.name] = shared
        laid[stream.name] = _lay(stream, shared, samples.pop(stream.name), rates.get(stream.name) or stream.rate_hz)
    events = sorted((_moved(event, clocks, common) for event in source.events()), key=lambda event: event.time_s)
    return Recording(name, laid, events)


def _own_clocks(source: Source, stamps: Mapping[str, Float64Array]) -> Clocks:
    from clisonix.fabric.clocks.streams import clocks_of

    every = {s.name: stamps.get(s.name, np.zeros(0)) for s in source.inspect().streams}
    return clocks_of(source, stamps=every)


def _lay(stream: StreamInfo, times_s: Float64Array, parts: list[FloatArray], rate_hz: float | None) -> Stream:
    assert rate_hz is not None
    unit = stream.units[0] if len(set(stream.units)) == 1 else "mixed"
    known = np.isfinite(times_s)
    start_s = float(times_s[known].min()) if known.any() else 0.0
    cells = np.rint((times_s[known] - start_s) * rate_hz)
    count = int(cells.max()) + 1 if cells.size else 0
    # A wrong unit of time, or a clock that was set, would otherwise allocate a grid of mostly nothing.
    if count > 64 * len(times_s) + 4096 and count * len(stream.channels) > 1 << 24:
        raise ClisonixError(
            f"{len(times_s)} samples of {stream.name} span {count / rate_hz:.0f} s, which at {rate_hz:g} Hz is a "
            f"grid of {count} cells: check the rate and the clocks, or cut the recording at its gaps"
        )
    grid = np.full((len(stream.channels), count), np.nan, np.float32)
    where = cells.astype(np.int64)
    if stream.rate_hz is not None and len(where) > 8 and np.count_nonzero(np.bincount(where)) < 0.9 * len(where):
        seen_hz = (len(where) - 1) / max(count / rate_hz, 1e-9)
        raise ClisonixError(
            f"{stream.name} has the rate {rate_hz:g} Hz and {len(where)} samples in {count / rate_hz:.6g} s: name "
            f"other streams, or give its true rate, rates={{{stream.name!r}: {seen_hz:.3g}}}"
        )
    if len(where) == len(times_s) == count and (np.diff(where) == 1).all():
        np.concatenate(parts, axis=1, out=grid)
    else:
        grid[:, where] = np.concatenate(parts, axis=1)[:, known]
    return Stream(grid, rate_hz, start_s, stream.channels, unit)


def _moved(event: Event, clocks: Clocks | None, common: Mapping[str, Float64Array]) -> Event:
    """The event on the shared clock; one that was written beside a sample is where that is."""
    if clocks is None or not isinstance(event, Marker):
        return event
    if event.sample is not None and event.sample[0] in common:
        stream, index = event.sample
        return replace(event, time_s=float(common[stream][index]))
    time_s = float(clocks.to_common(event.stream, np.array([event.time_s]))[0])
    return replace(event, time_s=time_s)
