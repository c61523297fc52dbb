"""What clocks leave of the stamps, as a picture: jitter over time, a panel for each stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock
from clisonix.fabric.clocks.line import FloatArray
from clisonix.fabric.clocks.streams import StreamClocks
from clisonix.files import write_atomic, write_bytes

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP = 900, 130, 90, 30, 26
_TICKS = 6
_LEAST_MS = 1e-3  # of the scale: what is smaller is rounding
_COLUMNS = 400  # each drawn from its least to its largest value, so no outlier is hidden


class Panel(NamedTuple):
    """One stream.

    Attributes:
        name: of the stream.
        times_s: `(n,)` since the beginning of its first sample.
        jitter_ms: `(n,)` stamp minus what the clock says.
        gaps: times at which samples are missing, `(from, to)`.
        breaks: times from which another line holds.
        text: what the segments are.
    """

    name: str
    times_s: FloatArray
    jitter_ms: FloatArray
    gaps: tuple[tuple[float, float], ...]
    breaks: tuple[float, ...]
    text: str


def panels(clocks: StreamClocks, stamps: Mapping[str, FloatArray]) -> list[Panel]:
    """A panel for each stream that has a clock of its samples."""
    made = []
    for name, clock in clocks.samples.items():
        times = clock(np.arange(len(stamps[name])))
        # Time runs on over settings of the clock, so it is counted in samples, lost ones included.
        rate = clock.rate_hz or 1.0
        lost = np.cumsum([s.lost for s in clock.segments])
        first = np.array([s.first_s for s in clock.segments])
        own = np.arange(len(times)) / rate
        shown = own + lost[np.searchsorted(first, own + 0.5 / rate) - 1] / rate
        gaps = tuple(
            (float(s.first_s + (total - s.lost) / rate), float(s.first_s + total / rate))
            for s, total in zip(clock.segments, lost.tolist(), strict=True)
            if s.lost
        )
        breaks = tuple(
            float(b.first_s + total / rate)
            for a, b, total in zip(clock.segments, clock.segments[1:], lost.tolist()[1:], strict=False)
            if a.rate_ppm != b.rate_ppm
        )
        made.append(Panel(name, shown, 1e3 * (stamps[name] - times), gaps, breaks, _described(clock)))
    return made


def _described(clock: Clock) -> str:
    count = len(clock.segments)
    jitter_ms = 1e3 * max(s.residual_sd_s for s in clock.segments)
    jitter = f"jitter {jitter_ms:.3g} ms" if jitter_ms >= _LEAST_MS else f"jitter below {_LEAST_MS:g} ms"
    return f"{count} segment{'s' if count > 1 else ''}, {clock.lost} lost, {jitter}"


def _ticks(span: float) -> list[float]:
    """Round times from 0 on, no more than a reader can use."""
    size = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(size * k for k in (1, 2, 5, 10) if size * k * _TICKS >= span)
    return [k * step for k in range(int(span / step + 1e-9) + 1)]


def draw(shown: Sequence[Panel], path: Path) -> None:
    """Write the picture, SVG or PNG by the name of the file.

    Raises:
        ClisonixError: nothing to draw, another ending, PNG without matplotlib, or the file cannot be written.
    """
    if not shown:
        raise ClisonixError("no stream has a clock of its samples, so there is nothing to plot")
    if path.suffix == ".svg":
        write_bytes(path, svg(shown).encode())
    elif path.suffix == ".png":
        write_atomic(path, lambda temporary: _png(shown, temporary))
    else:
        raise ClisonixError(f"{path} ends in {path.suffix!r}, expected .svg or .png")


def svg(shown: Sequence[Panel]) -> str:
    """The picture as SVG text."""
    height = len(shown) * (_HEIGHT + _TOP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, panel in enumerate(shown):
        parts += _panel(panel, row * (_HEIGHT + _TOP) + _TOP)
    legend = "seconds from the first sample; left: jitter in ms; red: samples lost; dashed: clock set anew"
    parts.append(f'<text x="{_LEFT}" y="{height - 8}">{legend}</text></svg>')
    return "\n".join(parts)


def _panel(panel: Panel, top: float) -> list[str]:
    span = max(float(panel.times_s[-1]), 1e-9)
    low, high = min(float(panel.jitter_ms.min()), -_LEAST_MS), max(float(panel.jitter_ms.max()), _LEAST_MS)
    wide = _WIDTH - _LEFT - _RIGHT

    def x(time: float) -> float:
        return round(_LEFT + wide * time / span, 1)

    def y(value: float) -> float:
        return round(top + (_HEIGHT - 20) * (high - value) / (high - low), 1)

    parts = [f'<text x="{_LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.name)}</text>']
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{top - 6}" text-anchor="end">{escape(panel.text)}</text>')
    for start, stop in panel.gaps:
        place = f'x="{x(start)}" y="{top}" width="{max(x(stop) - x(start), 1)}" height="{_HEIGHT - 20}"'
        parts.append(f'<rect {place} fill="#f3c9c2"/>')
    for at in panel.breaks:
        place = f'x1="{x(at)}" x2="{x(at)}" y1="{top}" y2="{top + _HEIGHT - 20}"'
        parts.append(
            f'<line {place} stroke="#a33" stroke-dasharray="4 3"><title>the clock was set anew</title></line>'
        )
    for value in (low, 0.0, high):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:.3g}</text>')
    parts += [
        f'<text x="{x(at)}" y="{top + _HEIGHT - 6}" text-anchor="middle">{at:.4g}</text>' for at in _ticks(span)
    ]
    edges = np.unique(np.linspace(0, len(panel.times_s), _COLUMNS + 1).astype(np.int64))
    path = []
    for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = panel.jitter_ms[a:b]
        column = x(float(panel.times_s[a]))
        path.append(f"M{column} {y(float(part.min()))}V{y(float(part.max())) - 0.8:.1f}")
    parts.append(f'<path d="{"".join(path)}" stroke="#23627f" stroke-width="1.5" fill="none"/>')
    return parts


def _png(shown: Sequence[Panel], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ClisonixError("a PNG needs matplotlib, which is not installed; name the file .svg instead") from error
    figure = Figure(figsize=(9, 1.8 * len(shown)), layout="constrained")
    for axis, panel in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        axis.plot(panel.times_s, panel.jitter_ms, ".", markersize=1, color="#23627f")
        for start, stop in panel.gaps:
            axis.axvspan(start, stop, color="#f3c9c2")
        for at in panel.breaks:
            axis.axvline(at, color="#a33", linestyle="--")
        axis.set_title(f"{panel.name}: {panel.text}", fontsize=9)
        axis.set_ylabel("jitter, ms")
    figure.savefig(path, format="png", dpi=120)
