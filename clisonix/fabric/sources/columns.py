"""Which columns of a table are times, events and signals: what CSV and Parquet share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.source import Chunk, Float64Array, Marker, StreamInfo, Wanted, plain, unique
from clisonix.fabric.sources.base import Notes, Pending, even_times

_TIME = re.compile(r"(lsl_|unix_)?(timestamps?|time|seconds|t)([ _]?[(\[]?(s|sec|seconds|ms)[)\]]?)?$", re.I)
_MARKER = re.compile(r"(markers?|stim(ulus)?|triggers?|events?)[ _]?\d*$", re.I)
_UNIT = re.compile(r"(.+?)\s*[\[(]([^\[\]()]{1,12})[\])]$")
_Roles = tuple[int | None, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, where their names do not say it.

    Attributes:
        channels: names of the columns of samples; None takes all that are nothing else.
        time: name of the column of times, in seconds, or in milliseconds if it ends in `ms`; None for even times.
        markers: names of the columns of event codes; an event is where one becomes another code than 0.
    """

    channels: tuple[str, ...] | None = None
    time: str | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Roles of the columns.

    Attributes:
        names: of all columns.
        time: index of the column of times, None if there is none.
        time_scale: seconds per unit of that column.
        markers: indices of the columns of event codes.
        signals: indices of the others.
        stream: what these are together.
    """

    names: tuple[str, ...]
    time: int | None
    time_scale: float
    markers: tuple[int, ...]
    signals: tuple[int, ...]
    stream: StreamInfo

    @property
    def streams(self) -> tuple[StreamInfo, ...]:
        """The stream, if there are signals at all."""
        return (self.stream,) if self.signals else ()


def lay_out(
    names: Sequence[str],
    head: Float64Array,
    dtype: str,
    rate_hz: float | None,
    rows: int | None,
    notes: Notes,
    columns: Columns | None = None,
) -> Layout:
    """Tell the columns apart by their names; a unit may stand behind a name in brackets.

    Args:
        names: of the columns.
        head: the first rows `(rows, columns)`; columns without any number in them are left out.
        dtype: of the stored samples.
        rate_hz: as the user said; without it, it is taken from steady times.
        rows: how many there are, if that is known.
        notes: where guesses are noted.
        columns: what they are; None guesses.

    Raises:
        ClisonixError: a column of `columns` that is not there.
    """
    shown = unique([plain(name, 40) or f"ch{i}" for i, name in enumerate(names)])
    time, markers, signals = _guess(shown, head, notes) if columns is None else _find(shown, columns)
    scale = 1e-3 if time is not None and re.search(r"[ _(\[]ms[)\]]?$", shown[time]) else 1.0
    start_s: float | None = 0.0
    if time is not None:
        times_s = head[:, time] * scale
        start_s = float(times_s[0]) if len(times_s) and np.isfinite(times_s[0]) else None
        if rate_hz is None:
            rate_hz = _steady(times_s)
            notes.say(
                "its times are not steady, so it is taken as irregular: give rate_hz if it has a rate"
                if rate_hz is None
                else f"the rate {rate_hz:g} Hz was taken from the first {len(times_s)} times"
            )
    elif rate_hz is None:
        notes.say("it has no column of times: give rate_hz to read it")
    found = [_UNIT.match(shown[i]) for i in signals]
    channels = unique([m[1] if m else shown[i] for i, m in zip(signals, found, strict=True)])
    units = tuple(m[2] if m else "" for m in found)
    stream = StreamInfo(
        "signals", channels, units, rate_hz, "file", rows, start_s, dtype, () if time is None else None
    )
    return Layout(shown, time, scale, markers, signals, stream)


def _guess(shown: Sequence[str], head: Float64Array, notes: Notes) -> _Roles:
    text = [i for i in range(len(shown)) if len(head) and np.isnan(head[:, i]).all()]
    time = next((i for i, name in enumerate(shown) if _TIME.match(name) and i not in text), None)
    markers = tuple(i for i, name in enumerate(shown) if _MARKER.match(name) and i != time and i not in text)
    if text:
        notes.say(f"columns that begin without numbers were left out: {', '.join(shown[i] for i in text[:8])}")
    return time, markers, tuple(i for i in range(len(shown)) if i != time and i not in markers and i not in text)


def _find(shown: Sequence[str], columns: Columns) -> _Roles:
    def place(name: str) -> int:
        if name not in shown:
            raise ClisonixError(f"there is no column {name!r}{nearest(name, shown)}")
        return shown.index(name)

    time = None if columns.time is None else place(columns.time)
    markers = tuple(place(name) for name in columns.markers)
    if columns.channels is not None:
        return time, markers, tuple(place(name) for name in columns.channels)
    return time, markers, tuple(i for i in range(len(shown)) if i != time and i not in markers)


def cut_chunks(layout: Layout, blocks: Iterator[Float64Array], want: Wanted, notes: Notes) -> Iterator[Chunk]:
    """Chunks from blocks of rows.

    Raises:
        ClisonixError: there are neither times nor a rate.
    """
    if not want.streams:
        return
    rate_hz = layout.stream.rate_hz
    if layout.time is None and rate_hz is None:
        raise ClisonixError("a table without a column of times needs its rate: give rate_hz")
    pending, index = Pending(layout.stream, want), 0
    for rows in blocks:
        times_s = _times(layout, rows, index)
        index += len(rows)
        known = np.isfinite(times_s)
        if not known.all():
            notes.say(f"rows without a time were left out: {int((~known).sum())} up to row {index}")
            rows, times_s = rows[known], times_s[known]
        with np.errstate(over="ignore"):
            yield from pending.add(np.ascontiguousarray(rows[:, layout.signals].T, np.float32), times_s)
    yield from pending.rest()


def find_events(layout: Layout, blocks: Iterator[Float64Array]) -> list[Marker]:
    """An event where a column of codes becomes another code than 0."""
    found: list[Marker] = []
    if not layout.markers or (layout.time is None and layout.stream.rate_hz is None):
        return found
    before = np.zeros(len(layout.markers))
    index = kept = 0
    for rows in blocks:
        times_s = _times(layout, rows, index)
        index += len(rows)
        known = np.isfinite(times_s)
        rows, times_s = rows[known], times_s[known]
        for m, column in enumerate(layout.markers):
            codes = np.nan_to_num(rows[:, column])
            new = np.flatnonzero((codes != 0) & (codes != np.concatenate((before[m : m + 1], codes[:-1]))))
            if len(codes):
                before[m] = codes[-1]
            name = layout.names[column]
            found += [
                Marker(float(times_s[i]), int(codes[i]), name, sample=(layout.stream.name, kept + int(i)))
                for i in new
                if abs(codes[i]) < 2**53
            ]
        kept += len(rows)
    return sorted(found, key=lambda marker: marker.time_s)


def _times(layout: Layout, rows: Float64Array, index: int) -> Float64Array:
    if layout.time is not None:
        times_s: Float64Array = rows[:, layout.time] * layout.time_scale
        return times_s
    assert layout.stream.rate_hz is not None
    return even_times(index, len(rows), layout.stream.rate_hz)


def _steady(times_s: Float64Array) -> float | None:
    """The rate of times that are within 2 % of a period of evenly spaced ones; None for others."""
    if len(times_s) < 3 or not np.isfinite(times_s).all():
        return None
    step_s = float(times_s[-1] - times_s[0]) / (len(times_s) - 1)
    even = times_s[0] + step_s * np.arange(len(times_s))
    if step_s <= 0 or np.abs(times_s - even).max() > 0.02 * step_s:
        return None
    nice = round(1 / step_s, 3)
    return nice if nice > 0 and abs(nice * step_s - 1) < 1e-4 else 1 / step_s
