"""What an XDF stream header says that a reader of signals needs; people and machines in it are left alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from clisonix.fabric.source import plain, unique

DTYPES = {
    "int8": "<i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "float32": "<f4",
    "double64": "<f8",
    "string": "",
}
_MOST_CHANNELS = 65536


@dataclass(frozen=True)
class Header:
    """A stream header.

    Attributes:
        name: of the stream.
        rate_hz: nominal rate, None for irregular.
        format: a key of `DTYPES`.
        channels: a name per channel.
        units: a unit per channel.
        markers: the samples are labels of events, not a signal.
        note: what is odd about the header, `""` if nothing is.
    """

    name: str
    rate_hz: float | None
    format: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    markers: bool
    note: str = ""


def parse(content: bytes) -> Header | str:
    """Read a stream header; returns what is wrong with it if it cannot be used."""
    try:
        # Writers put any encoding into the text; only its ASCII part matters here.
        root = ElementTree.fromstring(content.decode("utf-8", "replace"))
    except (ElementTree.ParseError, ValueError):
        return "its XML is damaged"
    kind = (root.findtext("channel_format") or "").strip()
    if kind not in DTYPES:
        return f"it has the unknown channel format {plain(kind, 20)!r}"
    count = _number(root.findtext("channel_count"))
    if not (count.is_integer() and 0 < count <= _MOST_CHANNELS):
        return f"it claims {count:g} channels"
    rate_hz = _number(root.findtext("nominal_srate"))
    note = ""
    if not (math.isfinite(rate_hz) and rate_hz >= 0):
        note, rate_hz = f"its nominal rate is {rate_hz}, so it is taken as irregular", 0.0
    channels = int(count)
    names, units = _labels(root, channels)
    is_events = kind == "string" or (
        rate_hz == 0 and channels == 1 and "int" in kind and "marker" in (root.findtext("type") or "").lower()
    )
    name = plain(root.findtext("name") or "") or "stream"
    return Header(name, rate_hz or None, kind, names, units, is_events, note)


def count_in_footer(content: bytes) -> int | None:
    """How many samples a stream footer says there are; None if it does not say so readably."""
    try:
        count = _number(ElementTree.fromstring(content.decode("utf-8", "replace")).findtext("sample_count"))
    except (ElementTree.ParseError, ValueError):
        return None
    return int(count) if count.is_integer() and count >= 0 else None


def _labels(root: ElementTree.Element, channels: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    described = root.findall("desc/channels/channel")
    if len(described) != channels:
        return tuple(f"ch{i}" for i in range(channels)), ("",) * channels
    names = [plain(c.findtext("label") or c.findtext("name") or "", 40) or f"ch{i}" for i, c in enumerate(described)]
    return unique(names), tuple(plain(c.findtext("unit") or "", 20) for c in described)


def _number(text: str | None) -> float:
    try:
        return float((text or "").strip().replace(",", "."))
    except ValueError:
        return math.nan
