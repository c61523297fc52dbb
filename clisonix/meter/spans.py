"""Named spans of time and their unions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One opening of a window.

    Attributes:
        name: `/` separates levels, e.g. `train/compressed/epoch-3`.
        start_s: seconds on the trace's clock.
        end_s: likewise; the time of the last sample while the window is open.
        open: whether it had not been closed yet.
    """

    name: str
    start_s: float
    end_s: float
    open: bool = False

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.end_s - self.start_s


def matching(spans: Iterable[Span], name: str) -> list[Span]:
    """The spans of that very name; if there is none, those below `name/`."""
    given = list(spans)
    return [s for s in given if s.name == name] or [s for s in given if s.name.startswith(f"{name}/")]


def union(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans in order of time that cover the same moments."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start_s, s.end_s)):
        if merged and span.start_s <= merged[-1].end_s:
            last = merged.pop()
            span = Span(last.name, last.start_s, max(last.end_s, span.end_s), last.open or span.open)
        merged.append(span)
    return merged


def seconds_of(spans: Iterable[Span]) -> float:
    """Sum of durations, in seconds."""
    return float(sum(span.seconds for span in spans))
