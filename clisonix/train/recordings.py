"""From the data section of a config to recordings, train and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric import (
    Event,
    Label,
    Recording,
    Stream,
    open_source,
    read_npz,
    split_packed,
    watch_arrays,
    watch_file,
)
from clisonix.train.alignment import align, check_overlap
from clisonix.train.annotations import labelled
from clisonix.train.data_config import (
    DataConfig,
    EdfSource,
    FileSource,
    OneFileSource,
    PackedSource,
    Source,
    SplitConfig,
    WatchSource,
)
from clisonix.train.names import Key, key_of, matching, name_parser
from clisonix.train.reading import RecordingFile


@dataclass
class _Part:
    """One stream of one recording, before streams are joined."""

    stream: Stream
    fields: dict[str, Label]
    events: Sequence[Event] = field(default_factory=tuple)
    file: RecordingFile | None = None


def open_recordings(data: DataConfig, root: Path | None, notes: list[str] | None = None) -> list[Recording]:
    """Read every recording that a config names.

    Streams belong to the same recording when the fields of their names are equal: `eeg/{subject}.edf` and
    `audio/{subject}.wav` join by subject.

    Args:
        data: the section `data` of a config.
        root: folder that file names are relative to; may be None when no stream names files.
        notes: what the files' sources noted is added here.

    Raises:
        ClisonixError: no data root, no file that matches, a damaged file, or streams whose clocks have nothing in
            common.
    """
    said: Counter[str] = Counter()
    joined: dict[Key, dict[str, _Part]] = {}
    for modality, source in data.streams.items():
        for part in _read(modality, source, data, root, said):
            parts = joined.setdefault(key_of(part.fields), {})
            if modality in parts:
                raise ClisonixError(
                    f"two recordings of {modality} have the same fields {part.fields}: name more fields"
                )
            parts[modality] = part
    for modality, clock in data.clocks.items():
        for key, parts in joined.items():
            if modality in parts:
                file = parts[modality].file
                assert file is not None
                streams = {name: part.stream for name, part in parts.items()}
                read = align(file, modality, streams, clock, root, key)
                parts[modality].stream, parts[modality].events = read.stream, read.events
    if notes is not None:
        notes += [sentence if n == 1 else f"{sentence} (in {n} files)" for sentence, n in said.items()]
    return [_join(f"recording {i}", parts, data) for i, parts in enumerate(joined.values())]


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


def set_aside(recordings: Sequence[Recording], share: float, seed: int) -> tuple[list[Recording], list[Recording]]:
    """Recordings to train on and recordings to validate on, whole, each label in about the same share.

    Args:
        recordings: of the training side.
        share: to set aside; at least one recording, at most all but one.
        seed: of the choice.

    Raises:
        ClisonixError: there are fewer than two.
    """
    count = len(recordings)
    if count < 2:
        raise ClisonixError(
            "one training recording cannot be split for the early stop: train on more, or say recipe.stop=false"
        )
    shuffled = np.random.Generator(np.random.Philox(key=np.array([seed, 1 << 32], np.uint64))).permutation(count)
    # Dealt out in the order of labels, so that every stretch of this order holds each label in its share.
    order = sorted(shuffled.tolist(), key=lambda i: (str(type(recordings[i].label)), str(recordings[i].label)))
    wanted = min(max(1, round(share * count)), count - 1)
    chosen = {order[int((k + 0.5) * count / wanted)] for k in range(wanted)}
    train = [r for i, r in enumerate(recordings) if i not in chosen]
    return train, [r for i, r in enumerate(recordings) if i in chosen]


def class_labels(recordings: Sequence[Recording], around_events: bool) -> list[Label]:
    """Every label that occurs, sorted: the classes."""
    found = {e.label for r in recordings for e in r.events} if around_events else {r.label for r in recordings}
    labels = sorted((v for v in found if v is not None), key=lambda v: (str(type(v)), v))
    if len(labels) < 2:
        raise ClisonixError(f"the recordings carry the labels {labels}; a classifier needs two or more")
    return labels


def _join(name: str, parts: Mapping[str, _Part], data: DataConfig) -> Recording:
    streams = {modality: part.stream for modality, part in parts.items()}
    check_overlap(name, streams)
    events: list[Event] = []
    for part in parts.values():
        # Two streams of one file bring the same events; one file may say the same twice and mean it.
        known = set(events)
        events += [event for event in part.events if event not in known]
    fields = next(iter(parts.values())).fields
    label = None if data.label is None else _field(fields, data.label)
    return Recording(name, streams, sorted(events, key=lambda event: event.time_s), label, fields)


def _field(fields: Mapping[str, Label], name: str) -> Label:
    if name not in fields:
        raise ClisonixError(f"the recordings have no field {name!r}{nearest(name, fields)}")
    return fields[name]


def _read(modality: str, source: Source, data: DataConfig, root: Path | None, said: Counter[str]) -> Iterator[_Part]:
    if isinstance(source, WatchSource):
        arrays = watch_arrays(watch_file())
        packed = PackedSource(
            reader="packed", files="", rate_hz=50.0, fields=["y", "subject"], names={"y": "y_labels"},
            columns=source.columns,
        )  # fmt: skip
        yield from _packed(packed, arrays)
        return
    paths = matching(source.files, root)
    if isinstance(source, PackedSource):
        if len(paths) != 1:
            raise ClisonixError(f"{source.files!r} matches {len(paths)} files, expected one archive")
        yield from _packed(source, read_npz(paths[0]))
        return
    fields = name_parser(source.name)
    elsewhere = _annotations(source, root)
    for path in paths:
        mine = fields(path)
        file = RecordingFile(source, path, damaged=data.damaged)
        read = file.read()
        said.update({f"{modality}: {note}" for note in read.notes})
        events = read.events if elsewhere is None else elsewhere.get(key_of(mine), [])
        yield _Part(read.stream, mine, events, file)


def _annotations(source: OneFileSource, root: Path | None) -> dict[Key, list[Event]] | None:
    """Events in other files, by the fields of the recording that they belong to; None if there are none."""
    if not isinstance(source, FileSource | EdfSource) or source.events is None:
        return None
    fields = name_parser(source.events_name or source.name)
    markers = source.markers if isinstance(source, FileSource) else None
    return {
        key_of(fields(path)): labelled(open_source(path).events(), source.labels, source.every_s, markers)
        for path in matching(source.events, root)
    }


def _packed(source: PackedSource, arrays: dict[str, np.ndarray]) -> Iterator[_Part]:
    cut = split_packed(arrays, samples=source.samples, lengths=source.lengths, fields=source.fields)
    for i, (samples, fields) in enumerate(cut):
        columns = range(len(samples)) if source.columns is None else source.columns
        if any(not 0 <= c < len(samples) for c in columns):
            raise ClisonixError(f"columns {list(columns)} of {source.samples!r}: it has {len(samples)} columns")
        for name, table in source.names.items():
            if table not in arrays:
                raise ClisonixError(f"the archive has no array {table!r}{nearest(table, arrays)}")
            fields[name] = str(arrays[table][int(_field(fields, name))])
        yield _Part(Stream(samples[list(columns)], source.rate_hz, unit=source.unit), {**fields, "index": i})
