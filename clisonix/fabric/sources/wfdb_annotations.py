"""WFDB annotation files (MIT format): https://physionet.org/physiotools/wag/annot-5.htm."""

from __future__ import annotations

import re
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Marker, SourceError
from clisonix.fabric.sources.base import Notes

ANNOTATORS = (
    "atr",
    "ari",
    "alh",
    "al",
    "ann",
    "apn",
    "ecg",
    "event",
    "man",
    "pwave",
    "qrs",
    "st",
    "sta",
    "stb",
    "stc",
)
_SYMBOLS = ' NLRaVFJASEj/Q~_|_sT*D"=pB^t+u?![]en@xf()r'
_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63
_MOST_BYTES = 1 << 28


def read_annotations(path: Path, rate_hz: float, name: str, notes: Notes) -> list[Marker]:
    """The annotations of a file: their symbol, and their text behind it if they carry one.

    Args:
        path: annotation file.
        rate_hz: frames a second, which the times count unless the file itself gives a resolution.
        name: of the annotator, for `Marker.stream`.
        notes: where damage is noted.

    Raises:
        ClisonixError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    if size > _MOST_BYTES:
        raise SourceError(path, "is too large for an annotation file", _MOST_BYTES)
    found: list[tuple[int, str]] = []
    at = sample = 0
    while at + 2 <= len(content):
        word = int.from_bytes(content[at : at + 2], "little")
        code, interval = word >> 10, word & 0x3FF
        at += 2
        if word == 0:
            break
        if code == _SKIP:
            high, low = (int.from_bytes(content[at + i : at + i + 2], "little") for i in (0, 2))
            long = high << 16 | low
            sample += long - (1 << 32) if long >> 31 else long
            at += 4
        elif code == _AUX:
            text = content[at : at + interval].rstrip(b"\0").decode("utf-8", "replace")
            at += interval + interval % 2
            if found and text:
                found[-1] = (found[-1][0], f"{found[-1][1]} {text}")
        elif code not in (_NUM, _SUB, _CHN):
            sample += interval
            found.append((sample, _SYMBOLS[code] if code < len(_SYMBOLS) else str(code)))
    else:
        notes.say_damage(f"the annotation file .{name} ends without an end mark; it may be truncated")
    if found and (said := re.search(r"## time resolution: (\d+(?:\.\d+)?)", found[0][1])) and float(said[1]) > 0:
        rate_hz = float(said[1])
        found = found[1:]
    return [Marker(sample / rate_hz, label, name) for sample, label in found]
