"""Time-stamped annotation lists of EDF+ and BDF+."""

from __future__ import annotations

import math
import re

from clisonix.fabric.source import Marker
from clisonix.fabric.sources.base import Notes

# onset, perhaps \x15 and a duration, \x14, texts that each end in \x14, and a zero byte.
_LIST = re.compile(rb"([+-]\d{1,15}(?:\.\d{0,15})?)(?:\x15(\d{1,15}(?:\.\d{0,15})?))?\x14([^\x00]*)\x14\x00")


def onset(content: bytes) -> float | None:
    """When a record begins: the onset of its first list; None if that cannot be read."""
    found = re.match(rb"([+-]\d{1,15}(?:\.\d{0,15})?)(?:\x15[\d.]*)?\x14", content)
    return None if found is None else _seconds(found[1])


def parse_annotations(content: bytes, notes: Notes) -> list[Marker]:
    """The annotations of one record; the empty text that keeps the time is not one."""
    found: list[Marker] = []
    end = 0
    for match in _LIST.finditer(content):
        if content[end : match.start()].strip(b"\0"):
            notes.say_damage("an annotation could not be read and was left out")
        end = match.end()
        time_s, duration_s = _seconds(match[1]), _seconds(match[2] or b"0")
        if time_s is None or duration_s is None:
            continue
        texts = (text.decode("utf-8", "replace") for text in match[3].split(b"\x14") if text)
        found.extend(Marker(time_s, text, "", duration_s) for text in texts)
    if content[end:].strip(b"\0"):
        notes.say_damage("an annotation could not be read and was left out")
    return found


def _seconds(text: bytes) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
