"""Events of EDF+ files as labels: which texts count, and long ones dealt into epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clisonix.fabric import Event
from clisonix.fabric.source import Marker
from clisonix.fabric.sources import open_source

_SLACK = 1e-6  # seconds


def labelled_events(path: Path, labels: Mapping[str, str], every_s: float | None) -> list[Event]:
    """The annotations of a file, in order of time.

    Args:
        path: EDF+ file, with signals or without (a hypnogram).
        labels: text of an annotation to the class it stands for; others are left out. Empty takes all as they are.
        every_s: an annotation that lasts becomes one event per whole stretch of this length; None takes its onset.

    Raises:
        ClisonixError: the file is missing or damaged.
    """
    found: list[Event] = []
    for event in open_source(path).events():
        text = str(event.label)
        if labels and text not in labels:
            continue
        lasts_s = event.duration_s if isinstance(event, Marker) else 0.0
        count = 1 if every_s is None else int((lasts_s + _SLACK) // every_s)
        found += [Event(event.time_s + i * (every_s or 0.0), labels.get(text, text)) for i in range(count)]
    return sorted(found, key=lambda event: event.time_s)
