"""Line charts as inline SVG: no script, no font, no request; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from clisonix.meter.words import number

WIDTH, HEIGHT = 480, 250
RIGHT, TOP, BOTTOM = 14, 12, 44
# Of the axis label at the left, with the gaps around the ticks' numbers, and of one character of these.
LABEL, CHARACTER = 28, 8


@dataclass(frozen=True)
class Line:
    """One line: a label and its points; a None breaks the line."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    dots: bool = False


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, title: str, from_zero: bool = False) -> str:
    """An SVG element.

    Args:
        lines: at most six are told apart by colour.
        x_label: with its unit.
        y_label: with its unit.
        title: what a screen reader says.
        from_zero: whether the y axis begins at 0.

    Returns:
        The markup, or the empty text when no point is finite.
    """
    points = [
        [
            (x, y) if y is not None and math.isfinite(y) and math.isfinite(x) else None
            for x, y in zip(n.x, n.y, strict=True)
        ]
        for n in lines
    ]
    flat = [point for line in points for point in line if point is not None]
    if not flat:
        return ""
    x_ticks = ticks(min(x for x, _ in flat), max(x for x, _ in flat))
    # Time and energy end where they end; only the vertical axis is rounded up.
    x_range = (x_ticks[0], max(x for x, _ in flat)) if len({x for x, _ in flat}) > 1 else (x_ticks[0], x_ticks[-1])
    y_ticks = ticks(0.0 if from_zero else min(y for _, y in flat), max(y for _, y in flat))
    y_range = (y_ticks[0], y_ticks[-1])
    left = LABEL + CHARACTER * max(len(tick_label(value, y_ticks)) for value in y_ticks)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
    ]
    for value in y_ticks:
        y = _place(value, y_range, HEIGHT - BOTTOM, TOP)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(value, y_ticks)}</text>')
    for value in (tick for tick in x_ticks if tick <= x_range[1]):
        x = _place(value, x_range, left, WIDTH - RIGHT)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick_label(value, x_ticks)}</text>'
        )
    middle = (left + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text class="axis" {turned} text-anchor="middle">{escape(y_label)}</text>')
    for i, (line, row) in enumerate(zip(lines, points, strict=True)):
        placed = [
            None if p is None
            else (_place(p[0], x_range, left, WIDTH - RIGHT), _place(p[1], y_range, HEIGHT - BOTTOM, TOP))
            for p in row
        ]  # fmt: skip
        parts.append(f'<path class="line c{i % 6}" d="{_path(placed)}"><title>{escape(line.label)}</title></path>')
        if line.dots:
            parts += [f'<circle class="dot c{i % 6}" cx="{p[0]:.1f}" cy="{p[1]:.1f}" r="3.5"/>' for p in placed if p]
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, that enclose the range."""
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_label(value: float, among: Sequence[float]) -> str:
    """A tick's number, with as many decimals as the step needs."""
    step = among[1] - among[0] if len(among) > 1 else abs(value) or 1.0
    if max(abs(t) for t in among) >= 1e6 or step < 1e-4:
        return number(value)
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _place(value: float, among: tuple[float, float], start: float, end: float) -> float:
    return start + (value - among[0]) / (among[1] - among[0]) * (end - start)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    words, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            words.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
            pen = "L"
    return "".join(words)
