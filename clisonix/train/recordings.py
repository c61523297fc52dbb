"""From the data section of a config to recordings, train and test."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric import (
    Columns,
    Event,
    Label,
    Recording,
    Stream,
    read_audio,
    read_csv,
    read_edf,
    read_npz,
    split_packed,
    watch_arrays,
    watch_file,
)
from clisonix.train.annotations import labelled_events
from clisonix.train.config import (
    AudioSource,
    CsvSource,
    DataConfig,
    EdfSource,
    PackedSource,
    Source,
    SplitConfig,
    WatchSource,
)


@dataclass
class _Part:
    """One stream of one recording, before streams are joined."""

    stream: Stream
    fields: dict[str, Label]
    events: Sequence[Event] = field(default_factory=tuple)


def open_recordings(data: DataConfig, root: Path | None) -> list[Recording]:
    """Read every recording that a config names.

    Streams belong to the same recording when the fields of their names are equal: `eeg/{subject}.edf` and
    `audio/{subject}.wav` join by subject.

    Args:
        data: the section `data` of a config.
        root: folder that file names are relative to; may be None when no stream names files.

    Raises:
        ClisonixError: no data root, no file that matches, a damaged file, or two streams that share no recording.
    """
    joined: dict[tuple[tuple[str, Label], ...], Recording] = {}
    for modality, source in data.streams.items():
        for part in _read(source, root):
            key = _key(part.fields)
            known = joined.get(key) or Recording(f"recording {len(joined)}", {}, fields=part.fields)
            if modality in known.streams:
                raise ClisonixError(
                    f"two recordings of {modality} have the same fields {dict(key)}: name more fields"
                )
            events = sorted([*known.events, *part.events], key=lambda event: event.time_s)
            label = None if data.label is None else _field(part.fields, data.label)
            joined[key] = replace(known, streams={**known.streams, modality: part.stream}, events=events, label=label)
    return list(joined.values())


def split_recordings(recordings: Sequence[Recording], split: SplitConfig) -> tuple[list[Recording], list[Recording]]:
    """Training and test recordings.

    Raises:
        ClisonixError: a field that the recordings lack, a value or fold that does not exist, or an empty side.
    """
    values = [_field(r.fields, split.by) for r in recordings]
    groups = sorted(set(values), key=lambda v: (str(type(v)), v))
    if split.test is not None:
        if unknown := [v for v in split.test if v not in groups]:
            raise ClisonixError(f"no recording has {split.by} {unknown[0]!r}; there are {groups}")
        held_out = set(split.test)
    else:
        folds = split.folds or len(groups)
        if folds > len(groups) or split.fold >= folds:
            raise ClisonixError(f"fold {split.fold} of {folds} does not exist: {split.by} has {len(groups)} values")
        held_out = set(groups[split.fold :: folds])
    train = [r for r, v in zip(recordings, values, strict=True) if v not in held_out]
    test = [r for r, v in zip(recordings, values, strict=True) if v in held_out]
    if not train or not test:
        raise ClisonixError(
            f"splitting by {split.by} leaves {len(train)} recordings to train on and {len(test)} to test"
        )
    return train, test


def class_labels(recordings: Sequence[Recording], around_events: bool) -> list[Label]:
    """Every label that occurs, sorted: the classes."""
    found = {e.label for r in recordings for e in r.events} if around_events else {r.label for r in recordings}
    labels = sorted((v for v in found if v is not None), key=lambda v: (str(type(v)), v))
    if len(labels) < 2:
        raise ClisonixError(f"the recordings carry the labels {labels}; a classifier needs two or more")
    return labels


def _field(fields: dict[str, Label] | object, name: str) -> Label:
    assert isinstance(fields, dict)
    if name not in fields:
        raise ClisonixError(f"the recordings have no field {name!r}{nearest(name, fields)}")
    value: Label = fields[name]
    return value


def _read(source: Source, root: Path | None) -> list[_Part]:
    if isinstance(source, WatchSource):
        arrays = watch_arrays(watch_file())
        packed = PackedSource(
            reader="packed", files="", rate_hz=50.0, fields=["y", "subject"], names={"y": "y_labels"},
            columns=source.columns,
        )  # fmt: skip
        return _packed(packed, arrays)
    paths = _matching(source.files, root)
    if isinstance(source, PackedSource):
        if len(paths) != 1:
            raise ClisonixError(f"{source.files!r} matches {len(paths)} files, expected one archive")
        return _packed(source, read_npz(paths[0]))
    fields = _name_parser(source.name)
    annotated = _annotations(source, root) if isinstance(source, EdfSource) else {}
    parts = []
    for path in paths:
        if isinstance(source, AudioSource):
            parts.append(_Part(read_audio(path), fields(path)))
        elif isinstance(source, EdfSource):
            mine = fields(path)
            parts.append(_Part(read_edf(path, source.channels), mine, annotated.get(_key(mine), ())))
        else:
            assert isinstance(source, CsvSource)
            columns = Columns(tuple(source.channels), source.rate_hz, source.time, source.marker, source.unit)
            stream, events = read_csv(path, columns)
            parts.append(_Part(stream, fields(path), events))
    return parts


def _annotations(source: EdfSource, root: Path | None) -> dict[tuple[tuple[str, Label], ...], list[Event]]:
    """Events by the fields of the recording that they belong to."""
    if source.events is None:
        return {}
    fields = _name_parser(source.events_name or source.name)
    return {
        _key(fields(path)): labelled_events(path, source.labels, source.every_s)
        for path in _matching(source.events, root)
    }


def _key(fields: dict[str, Label]) -> tuple[tuple[str, Label], ...]:
    return tuple(sorted(fields.items()))


def _packed(source: PackedSource, arrays: dict[str, np.ndarray]) -> list[_Part]:
    cut = split_packed(arrays, samples=source.samples, lengths=source.lengths, fields=source.fields)
    parts = []
    for i, (samples, fields) in enumerate(cut):
        columns = range(len(samples)) if source.columns is None else source.columns
        if any(not 0 <= c < len(samples) for c in columns):
            raise ClisonixError(f"columns {list(columns)} of {source.samples!r}: it has {len(samples)} columns")
        for name, table in source.names.items():
            if table not in arrays:
                raise ClisonixError(f"the archive has no array {table!r}{nearest(table, arrays)}")
            fields[name] = str(arrays[table][int(_field(fields, name))])
        parts.append(_Part(Stream(samples[list(columns)], source.rate_hz, unit=source.unit), {**fields, "index": i}))
    return parts


def _matching(pattern: str, root: Path | None) -> list[Path]:
    if root is None:
        raise ClisonixError(
            f"the config reads {pattern!r} below a data root: give --data DIR or set CLISONIX_DATA to that folder"
        )
    if not root.is_dir():
        raise ClisonixError(f"the data root {root} is not a folder")
    paths = sorted({p for part in pattern.split("|") for p in root.glob(part) if p.is_file()})
    if not paths:
        raise ClisonixError(f"no file below {root} matches {pattern!r}")
    return paths


def _name_parser(pattern: str) -> Callable[[Path], dict[str, Label]]:
    """`{digit}_{speaker}_{take}` to a function from a path to its fields. The name is taken without its endings.

    `{subject:2}` takes two characters, `{:2}` skips two.
    """
    regex = ""
    for piece in re.split(r"(\{\w*(?::\d+)?\})", pattern):
        slot = re.fullmatch(r"\{(\w*)(?::(\d+))?\}", piece)
        if slot is None or piece == "{}":
            regex += re.escape(piece)
            continue
        some = f".{{{slot[2]}}}" if slot[2] else ".+?"
        regex += f"(?P<{slot[1]}>{some})" if slot[1] else some
    compiled = re.compile(regex)

    def fields(path: Path) -> dict[str, Label]:
        stem = path.name.removesuffix(".gz")
        stem = stem.rpartition(".")[0] or stem
        match = compiled.fullmatch(stem)
        if match is None:
            raise ClisonixError(f"the file name {path.name!r} does not fit the pattern {pattern!r}")
        return {k: int(v) if v.isascii() and v.isdigit() else v for k, v in match.groupdict().items()}

    return fields
