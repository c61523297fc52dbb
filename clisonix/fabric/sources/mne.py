"""Everything that MNE reads, through the extra `mne`, without loading it whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.fabric.source import Chunk, Marker, SourceError, SourceInfo, StreamInfo, needs, plain, unique, wanted
from clisonix.fabric.sources.base import FileSource, even_times
from clisonix.fabric.stream import Event

# What MNE keeps its channel types in.
_UNITS = {"mag": "T", "grad": "T/m", "stim": "", "misc": "", "gsr": "S", "temperature": "degC"}


class MneSource(FileSource):
    """One stream `signals`, time from the first sample on; annotations are events."""

    format = "MNE"

    def inspect(self) -> SourceInfo:
        """The stream, from the header. `subject_info` and the like are not looked at.

        Raises:
            ClisonixError: MNE is not installed, or cannot read the file.
        """
        raw = self._raw
        rate_hz, samples = float(raw.info["sfreq"]), int(raw.n_times)
        names = unique([plain(str(name), 40) or f"ch{i}" for i, name in enumerate(raw.ch_names)])
        units = tuple(_UNITS.get(kind, "V") for kind in raw.get_channel_types())
        stream = StreamInfo("signals", names, units, rate_hz, "file", samples, 0.0, "float64")
        kind = type(raw).__name__.removeprefix("Raw") or self.format
        return SourceInfo((stream,), len(raw.annotations), samples / rate_hz, kind)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        want = wanted(self.inspect(), streams, seconds)
        for info in want.streams:
            assert info.rate_hz is not None
            block, total = want.block(info), int(self._raw.n_times)
            for a in range(0, total, block):
                count = min(block, total - a)
                try:
                    samples = self._raw.get_data(start=a, stop=a + count).astype(np.float32)
                except Exception as error:
                    raise SourceError(
                        self.path, f"MNE cannot read it behind sample {a}; it may be damaged"
                    ) from error
                yield Chunk(info.name, samples, even_times(a, count, info.rate_hz), a)

    def events(self) -> list[Event]:
        """The annotations, from the first sample on."""
        raw = self._raw
        shift_s = float(raw.first_time) if raw.annotations.orig_time is not None else 0.0
        found = raw.annotations
        return [
            Marker(float(onset) - shift_s, str(text), "", float(duration))
            for onset, text, duration in zip(found.onset, found.description, found.duration, strict=True)
        ]

    @cached_property
    def _raw(self) -> Any:  # noqa: ANN401 - the library has no types
        try:
            import mne
        except ImportError as error:
            raise needs("mne", "mne", f"reading {Path(self.path).suffix or 'such'} files", error) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return mne.io.read_raw(str(self.path), preload=False, verbose="error")
        except Exception as error:
            # Its errors may quote the header, so they are not shown.
            raise SourceError(self.path, "cannot be read by MNE") from error
