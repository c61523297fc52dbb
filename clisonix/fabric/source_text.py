"""A source in words, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clisonix.fabric.source import SourceInfo, StreamInfo


def describe(info: SourceInfo) -> Iterator[str]:
    """One line for the whole, one for each stream, one for each note."""
    events = "an unknown number of events" if info.events_count is None else _count(info.events_count, "event")
    length = "unknown length" if info.duration_s is None else f"{info.duration_s:.6g} s"
    yield f"{info.format}: {_count(len(info.streams), 'stream')}, {length}, {events}"
    zero: dict[str, float] = {}
    for stream in info.streams:
        if stream.start_s is not None:
            zero[stream.clock] = min(stream.start_s, zero.get(stream.clock, stream.start_s))
    for stream in info.streams:
        yield "  " + _stream(stream, zero.get(stream.clock, 0.0))
    if info.markers:
        yield f"  events come from {', '.join(info.markers)}"
    for note in info.notes:
        yield f"  note: {note}"


def _stream(stream: StreamInfo, zero_s: float) -> str:
    rate = "irregular" if stream.rate_hz is None else f"{stream.rate_hz:.10g} Hz"
    samples = "samples not counted" if stream.samples is None else f"{stream.samples} samples"
    parts = [f"{stream.name}: {_count(len(stream.channels), 'channel')}", rate, samples, stream.dtype]
    if stream.start_s is not None and stream.start_s != zero_s:
        parts.append(f"from {stream.start_s - zero_s:.6g} s")
    if stream.gaps_s:
        missing = sum(end - start for start, end in stream.gaps_s)
        parts.append(f"{_count(len(stream.gaps_s), 'gap')} of {missing:.6g} s in all")
    elif stream.gaps_s is None:
        parts.append("gaps unknown until read")
    return ", ".join(parts) + f" [{_few(stream.channels)}; {_few(sorted({u or 'no unit' for u in stream.units}))}]"


def _few(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + (f", … {len(words) - most} more" if len(words) > most else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
