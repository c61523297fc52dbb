"""Streams of one recording whose clocks differ, brought onto the recording's clock as a recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric import Stream
from clisonix.fabric.align import Realigned, by_correlation, by_edges, shifted
from clisonix.fabric.clocks import Clock, from_anchors
from clisonix.fabric.source import Float64Array
from clisonix.fabric.sources.text_table import Table, open_text
from clisonix.train.data_config import ClockConfig
from clisonix.train.names import Key, key_of, matching, name_parser
from clisonix.train.reading import Read, RecordingFile


def align(
    file: RecordingFile,
    modality: str,
    streams: Mapping[str, Stream],
    config: ClockConfig,
    root: Path | None,
    key: Key,
) -> Read:
    """Read a file again, on the clock that the recipe gives it.

    Args:
        file: where the stream comes from.
        modality: its name.
        streams: of the recording, on their own clocks.
        config: how the clock is found.
        root: data root, for files of anchors.
        key: fields of the recording.

    Raises:
        ClisonixError: no anchors for this recording, no other stream to compare with, or no agreement.
    """
    try:
        clock = _clock(streams, modality, config, root, key)
    except ClisonixError as error:
        raise ClisonixError(f"the clock of {modality} in {file.path}: {error}") from error
    return file.read(Realigned(file.clocks(), file.info.name, clock))


def check_overlap(name: str, streams: Mapping[str, Stream]) -> None:
    """Refuse streams that cannot be on one clock: they lie further apart than they are long.

    Raises:
        ClisonixError: there are such.
    """
    for (first, a), (second, b) in combinations(streams.items(), 2):
        apart_s = max(a.start_s, b.start_s) - min(a.end_s, b.end_s)
        if apart_s > a.length / a.rate_hz + b.length / b.rate_hz:
            raise ClisonixError(
                f"{name}: {first} and {second} lie {apart_s:.6g} s apart, so they are on different clocks: say under "
                f"data.clocks how they stand to each other, for example clocks: {{{second}: {{start_s: 0}}}}"
            )


def _clock(streams: Mapping[str, Stream], modality: str, config: ClockConfig, root: Path | None, key: Key) -> Clock:
    own = streams[modality]
    if config.start_s is not None:
        return shifted(own.start_s, config.start_s)
    if config.anchors is not None:
        pairs = _pairs(config.anchors, config.name, root, key)
        return from_anchors(pairs[:, 0], pairs[:, 1], anchor_sd_s=config.sd_s)
    assert config.of is not None
    assert config.seen_by is not None
    if config.of not in streams:
        raise ClisonixError(f"the recording has no {config.of} to compare with")
    shared = streams[config.of]
    if config.edges is not None:
        return by_edges(own, config.edges, shared, config.seen_by, anchor_sd_s=config.sd_s)
    assert config.correlate is not None
    return by_correlation(own, config.correlate, shared, config.seen_by, max_lag_s=config.max_lag_s)


def _pairs(anchors: str | list[tuple[float, float]], name: str, root: Path | None, key: Key) -> Float64Array:
    if not isinstance(anchors, str):
        return np.array(anchors, np.float64).reshape(-1, 2)
    fields = name_parser(name)
    for path in matching(anchors, root):
        if key_of(fields(path)) == key:
            return _read_pairs(path)
    raise ClisonixError(f"no file of {anchors!r} has its fields {dict(key)}")


def _read_pairs(path: Path) -> Float64Array:
    """Two columns, with or without a line of names."""
    with open_text(path) as file:
        rows = np.concatenate([np.zeros((0, 2)), *Table(path, file, 2).blocks()])
    first = 1 if len(rows) and np.isnan(rows[0]).all() else 0
    return rows[first:]
