"""WFDB header files. Comments, dates and everything else about the person recorded are skipped.

Specification: https://physionet.org/physiotools/wag/header-5.htm.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric.source import SourceError, plain, unique

_MOST_BYTES = 1 << 24
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GAIN = re.compile(rf"({_NUMBER})?(?:\(([-+]?\d+)\))?(?:/(\S*))?$")
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")


@dataclass(frozen=True)
class WfdbSignal:
    """One line of a header.

    Attributes:
        label: unique name.
        file: name of the file with its samples, beside the header; `"~"` for none.
        format: number of the storage format.
        per_frame: samples a frame.
        skew: frames by which its samples come late in the file.
        offset: bytes before the first sample.
        gain: digital steps per physical unit.
        baseline: digital value of 0 physical units.
        unit: physical unit.
    """

    label: str
    file: str
    format: int
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str


@dataclass(frozen=True)
class WfdbHeader:
    """A record, or one that is put together from segments.

    Attributes:
        rate_hz: frames a second.
        frames: how many there are; None if the header does not say.
        signals: none in a record of segments.
        segments: `(name, frames)`; the name `"~"` is a stretch without a recording.
    """

    rate_hz: float
    frames: int | None
    signals: tuple[WfdbSignal, ...]
    segments: tuple[tuple[str, int], ...]


def read_header(path: Path) -> WfdbHeader:
    """Read a `.hea` file.

    Raises:
        ClisonixError: missing, or a line that makes no sense (with its byte offset).
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > _MOST_BYTES:
        raise SourceError(path, "is too large for a WFDB header", _MOST_BYTES)
    lines: list[tuple[int, str]] = []
    at = 0
    for raw in content.split(b"\n"):
        line = raw.decode("utf-8", "replace").strip()
        if line and not line.startswith("#"):
            lines.append((at, line))
        at += len(raw) + 1
    if not lines:
        raise SourceError(path, "is not a WFDB header: it holds no record line", 0)
    where, first = lines[0]
    fields = first.split()
    name, _, segments = fields[0].partition("/")
    if len(fields) < 2 or not fields[1].isdecimal() or (segments and not segments.isdecimal()) or not name:
        raise SourceError(path, "is not a WFDB header: its first line is not NAME SIGNALS RATE SAMPLES", where)
    rate_hz = _rate(path, where, fields[2] if len(fields) > 2 else "250")
    frames = int(fields[3]) if len(fields) > 3 and fields[3].isdecimal() else None
    count = int(segments) if segments else int(fields[1])
    if len(lines) - 1 < count:
        raise SourceError(path, f"is truncated: it announces {count} lines, {len(lines) - 1} are there", len(content))
    body = lines[1 : 1 + count]
    if segments:
        return WfdbHeader(rate_hz, frames or None, (), tuple(_segment(path, *line) for line in body))
    signals = tuple(_signal(path, i, *line) for i, line in enumerate(body))
    names = unique([s.label for s in signals])
    return WfdbHeader(
        rate_hz,
        frames or None,
        tuple(WfdbSignal(**{**vars(s), "label": label}) for s, label in zip(signals, names, strict=True)),
        (),
    )


def _rate(path: Path, at: int, text: str) -> float:
    try:
        rate_hz = float(text.split("/")[0].split("(")[0])
    except ValueError:
        rate_hz = math.nan
    if not (math.isfinite(rate_hz) and rate_hz > 0):
        raise SourceError(path, "its first line has no positive rate", at)
    return rate_hz


def _segment(path: Path, at: int, line: str) -> tuple[str, int]:
    fields = line.split()
    if len(fields) < 2 or not fields[1].isdecimal():
        raise SourceError(path, "a segment line is not NAME SAMPLES", at)
    return _beside(path, at, fields[0]), int(fields[1])


def _signal(path: Path, index: int, at: int, line: str) -> WfdbSignal:
    fields = line.split(maxsplit=8)
    form = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    gain = _GAIN.match(fields[2]) if len(fields) > 2 else _GAIN.match("200")
    if form is None or gain is None:
        raise SourceError(path, f"the line of signal {index + 1} is not FILE FORMAT GAIN ...", at)
    zero = int(fields[4]) if len(fields) > 4 and re.fullmatch(r"[-+]?\d+", fields[4]) else 0
    label = plain(fields[8], 40) if len(fields) > 8 else ""
    per_frame = int(form[2] or 1)
    if not 0 < per_frame <= 1 << 20:
        raise SourceError(path, f"signal {index + 1} has {per_frame} samples a frame", at)
    steps = float(gain[1] or 0)
    return WfdbSignal(
        label=label or f"ch{index}",
        file=_beside(path, at, fields[0]),
        format=int(form[1]),
        per_frame=per_frame,
        skew=min(int(form[3] or 0), 1 << 20),
        offset=int(form[4] or 0),
        gain=steps if math.isfinite(steps) and steps != 0 else 200.0,
        baseline=int(gain[2]) if gain[2] else zero,
        unit=plain(gain[3], 20) if gain[3] else "mV",
    )


def _beside(path: Path, at: int, name: str) -> str:
    """A header may only name files that lie beside it."""
    if name != "~" and (Path(name).name != name or name in (".", "..")):
        raise SourceError(path, "names a file that does not lie beside it", at)
    return name
