"""Events as labels: which texts count, and long ones dealt into epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clisonix.fabric import Event
from clisonix.fabric.source import Marker

_SLACK = 1e-6  # seconds


def labelled(
    events: Iterable[Event], labels: Mapping[str, str], every_s: float | None, markers: Sequence[str] | None = None
) -> list[Event]:
    """The events that count, in order of time.

    Args:
        events: of a file.
        labels: text of an event to the class it stands for; others are left out. Empty takes all as they are.
        every_s: an event that lasts becomes one per whole stretch of this length; None takes its onset.
        markers: names of the marker streams that count; None takes all.
    """
    found: list[Event] = []
    for event in events:
        if markers is not None and not (isinstance(event, Marker) and event.stream in markers):
            continue
        if labels and str(event.label) not in labels:
            continue
        label = labels[str(event.label)] if labels else event.label
        lasts_s = event.duration_s if isinstance(event, Marker) else 0.0
        count = 1 if every_s is None else int((lasts_s + _SLACK) // every_s)
        found += [Event(event.time_s + i * (every_s or 0.0), label) for i in range(count)]
    return sorted(found, key=lambda event: event.time_s)
