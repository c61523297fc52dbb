"""The header of an EDF, EDF+ or BDF file. The fields about the patient and the recording are skipped, not read.

Specifications: B. Kemp et al., Electroencephalogr. Clin. Neurophysiol. 82 (1992) 391; B. Kemp and J. Olivan, Clinical
Neurophysiology 114 (2003) 1755 (EDF+); https://www.biosemi.com/faq/file_format.htm (BDF).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clisonix.fabric.source import SourceError, plain, unique
from clisonix.fabric.sources.base import Notes

_WIDTHS = {"label": 16, "transducer": 80, "unit": 8, "pmin": 8, "pmax": 8, "dmin": 8, "dmax": 8, "filter": 80}


@dataclass(frozen=True)
class Signal:
    """One signal of the header.

    Attributes:
        label: its name, unique.
        unit: as the file says.
        gain: physical units per digital step.
        offset: digital value to add before scaling.
        per_record: samples in a record.
        at: byte of its samples within a record.
        annotations: it holds time-stamped annotations instead of samples.
    """

    label: str
    unit: str
    gain: float
    offset: float
    per_record: int
    at: int
    annotations: bool


@dataclass(frozen=True)
class EdfHeader:
    """What is needed to read the records.

    Attributes:
        format: `"EDF"`, `"EDF+C"`, `"EDF+D"`, `"BDF"`, ...
        width: bytes of a sample.
        begin: byte of the first record.
        record: bytes of a record.
        record_s: seconds of a record.
        records: whole records that are there.
        signals: in the order of the file, annotations included.
    """

    format: str
    width: int
    begin: int
    record: int
    record_s: float
    records: int
    signals: tuple[Signal, ...]


def read_header(path: Path, file: BinaryIO, size: int, notes: Notes) -> EdfHeader:
    """Read and check the header.

    Raises:
        SourceError: it is not EDF or BDF, or a field that is needed makes no sense; with its byte offset.
    """
    fixed = file.read(256)
    bdf = fixed[:1] == b"\xff"
    if fixed[:8] != b"0       " and fixed[:8] != b"\xffBIOSEMI":
        raise SourceError(path, "is not an EDF or BDF file: its first bytes are others", 0)
    if len(fixed) < 256:
        raise SourceError(path, "is truncated inside its header", len(fixed))
    begin = _integer(path, fixed, 184, 8, "header length")
    records = _integer(path, fixed, 236, 8, "number of records", least=-1)
    record_s = _real(path, fixed, 244, 8, "duration of a record", 0)
    count = _integer(path, fixed, 252, 4, "number of signals", least=1)
    if not (math.isfinite(record_s) and record_s >= 0):
        raise SourceError(path, f"a record lasts {record_s} s, expected a positive number", 244)
    if begin != 256 * (count + 1):
        notes.say(f"the header claims {begin} bytes, its {count} signals make it {256 * (count + 1)}")
        begin = 256 * (count + 1)
    if begin > size:
        raise SourceError(path, f"is truncated inside its header, which takes {begin} bytes", size)
    variant = fixed[192:197].decode("ascii", "replace")
    kind = "BDF" if bdf else "EDF"
    plus = variant in ("EDF+C", "EDF+D", "BDF+C", "BDF+D")
    width = 3 if bdf else 2
    signals = _signals(path, file.read(256 * count), count, width, plus, notes)
    record = sum(s.per_record for s in signals) * width
    if record == 0:
        raise SourceError(path, "holds records without samples", 256)
    if record_s == 0 and not all(s.annotations for s in signals):
        raise SourceError(path, "a record lasts 0 s but holds samples, so they have no rate", 244)
    whole, rest = divmod(size - begin, record)
    if records == -1:
        notes.say("the recorder did not count the records; it may not have ended as it should")
    elif whole < records:
        notes.say_damage(f"truncated at byte {size}: {whole} of {records} records are there")
    elif whole > records or rest:
        notes.say(f"{size - begin - records * record} bytes behind the last record were left out")
    if records != whole and rest and (records == -1 or whole < records):
        notes.say_damage(f"the last {rest} bytes are no whole record and were left out")
    whole = whole if records == -1 else min(whole, records)
    return EdfHeader(variant if plus else kind, width, begin, record, record_s, whole, signals)


def _signals(path: Path, table: bytes, count: int, width: int, plus: bool, notes: Notes) -> tuple[Signal, ...]:
    columns, at = {}, 0
    for name, size in (*_WIDTHS.items(), ("samples", 8)):
        columns[name] = (at, size)
        at += size * count

    def where(name: str, i: int) -> int:
        return columns[name][0] + i * columns[name][1]

    def text(name: str, i: int) -> str:
        return plain(table[where(name, i) : where(name, i) + columns[name][1]].decode("latin-1"))

    def number(name: str, i: int) -> float:
        return _real(path, table, where(name, i), columns[name][1], f"{name} of signal {i + 1}", 256)

    labels = unique([text("label", i) or f"ch{i}" for i in range(count)])
    signals, at = [], 0
    for i in range(count):
        samples = _integer(path, table, where("samples", i), 8, f"samples of signal {i + 1}", 256)
        # `unique` renames the second of two annotation signals.
        notes_only = plus and text("label", i) in ("EDF Annotations", "BDF Annotations")
        gain, offset, unit = 1.0, 0.0, text("unit", i)
        if not notes_only:
            low, high, bottom, top = (number(name, i) for name in ("pmin", "pmax", "dmin", "dmax"))
            if bottom != top and low != high and all(map(math.isfinite, (low, high, bottom, top))):
                gain = (high - low) / (top - bottom)
                offset = high / gain - top
            else:
                notes.say(f"{labels[i]}: its range is empty, so its values are the digital ones")
                unit = ""
        signals.append(Signal(labels[i], unit, gain, offset, samples, at, notes_only))
        at += samples * width
    return tuple(signals)


def _real(path: Path, content: bytes, at: int, size: int, what: str, base: int) -> float:
    raw = content[at : at + size].replace(b"\0", b" ").strip()
    try:
        if b"_" in raw:
            raise ValueError
        return float(raw.replace(b",", b"."))
    except ValueError:
        # The bytes are not shown: in a shifted header they may be anything, a name included.
        raise SourceError(path, f"its header has no number for the {what}", base + at) from None


def _integer(path: Path, content: bytes, at: int, size: int, what: str, base: int = 0, least: int = 0) -> int:
    value = _real(path, content, at, size, what, base)
    if not (value.is_integer() and value >= least):
        raise SourceError(path, f"its header gives {value:g} as the {what}", base + at)
    return int(value)
