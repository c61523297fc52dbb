"""CSV files, plain or gzip, a block of lines at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from clisonix.fabric.source import Chunk, Float64Array, SourceError, SourceInfo, wanted
from clisonix.fabric.sources.base import FileSource, Notes, with_notes
from clisonix.fabric.sources.columns import Columns, Layout, cut_chunks, find_events, lay_out
from clisonix.fabric.sources.text_table import Table, open_text, read_line
from clisonix.fabric.stream import Event


class CsvSource(FileSource):
    """One stream `signals`; columns called time, timestamp, ... are times; marker, stim, ... are events.

    Cells may be separated by commas, semicolons or tabs. A first line of names may be missing. A unit may stand
    behind a name in brackets. An empty cell was not measured. A row with too few cells is an error.
    """

    format = "CSV"

    def __init__(self, path: Path | str, rate_hz: float | None = None, columns: Columns | None = None) -> None:
        """Remember where it is.

        Args:
            path: the file.
            rate_hz: nominal rate, for files that have no times or unsteady ones.
            columns: what the columns are; None goes by their names.
        """
        super().__init__(path)
        self._rate_hz, self._columns = rate_hz, columns
        self._notes = Notes()

    def inspect(self) -> SourceInfo:
        """Columns and rate from the first lines."""
        layout = self._layout
        events = None if layout.markers else 0
        markers = tuple(layout.names[i] for i in layout.markers)
        return with_notes(SourceInfo(layout.streams, events, None, self.format, (), markers), self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        yield from cut_chunks(self._layout, self._blocks(), wanted(self.inspect(), streams, seconds), self._notes)

    def events(self) -> list[Event]:
        """Where a column of codes becomes another code than 0; `Marker.stream` is the column."""
        return [*find_events(self._layout, self._blocks())] if self._layout.markers else []

    @cached_property
    def _header(self) -> tuple[tuple[str, ...], bytes, bool]:
        """Names of the columns, the separator, and whether the first line holds names."""
        with open_text(self.path) as file:
            line = read_line(self.path, file)
        if not line.strip():
            raise SourceError(self.path, "is empty, or its first line is", 0)
        separator = max(("\t", ";", ","), key=line.count)
        cells = [cell.strip().strip('"') for cell in line.split(separator)]
        named = not all(_is_number(cell.replace(",", ".") if separator != "," else cell) for cell in cells)
        names = tuple(cells) if named else tuple(f"ch{i}" for i in range(len(cells)))
        return names, separator.encode(), named

    @cached_property
    def _layout(self) -> Layout:
        names, _, _ = self._header
        head = next(itertools.islice(self._blocks(), 1), np.zeros((0, len(names))))
        return lay_out(names, head, "text", self._rate_hz, None, self._notes, self._columns)

    def _blocks(self) -> Iterator[Float64Array]:
        names, separator, named = self._header
        with open_text(self.path) as file:
            if named:
                read_line(self.path, file)
            yield from Table(self.path, file, len(names), separator, 2 if named else 1).blocks()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell
    return True
