"""Parquet files, a group of rows at a time, through the extra `parquet`. Their metadata are not looked at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.fabric.source import Chunk, Float64Array, SourceError, SourceInfo, needs, wanted
from clisonix.fabric.sources.base import FileSource, Notes, longest, with_notes
from clisonix.fabric.sources.columns import Columns, Layout, cut_chunks, find_events, lay_out
from clisonix.fabric.stream import Event


class ParquetSource(FileSource):
    """One stream `signals`; columns have the roles that they have in a CSV file."""

    format = "Parquet"

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
        """Columns from the schema, the rate from the first rows."""
        layout = self._layout
        markers = tuple(layout.names[i] for i in layout.markers)
        duration_s = longest(layout.streams)
        info = SourceInfo(layout.streams, None if markers else 0, duration_s, self.format, (), markers)
        return with_notes(info, self._notes)

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        yield from cut_chunks(self._layout, self._blocks(), wanted(self.inspect(), streams, seconds), self._notes)

    def events(self) -> list[Event]:
        """Where a column of codes becomes another code than 0; `Marker.stream` is the column."""
        return [*find_events(self._layout, self._blocks())] if self._layout.markers else []

    @cached_property
    def _layout(self) -> Layout:
        with self._open() as file:
            schema = file.schema_arrow
            names = [name for name, kind in zip(schema.names, schema.types, strict=True) if _numeric(kind)]
            rows = int(file.metadata.num_rows)
        if len(names) < len(schema.names):
            self._notes.say(f"{len(schema.names) - len(names)} columns hold no numbers and were left out")
        head = next(itertools.islice(self._read(names), 1), np.zeros((0, len(names))))
        return lay_out(names, head, "float64", self._rate_hz, rows, self._notes, self._columns)

    def _blocks(self) -> Iterator[Float64Array]:
        yield from self._read(list(self._layout.names))

    def _read(self, names: list[str]) -> Iterator[Float64Array]:
        try:
            with self._open() as file:
                for batch in file.iter_batches(batch_size=1 << 16, columns=names):
                    columns = [column.cast("float64").to_numpy(zero_copy_only=False) for column in batch.columns]
                    yield np.stack(columns, axis=1) if columns else np.zeros((batch.num_rows, 0))
        except (OSError, ValueError) as error:
            raise SourceError(self.path, "cannot be read as Parquet; it may be damaged") from error

    def _open(self) -> Any:  # noqa: ANN401 - the library has no types
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise needs("parquet", "pyarrow", "reading Parquet", error) from error
        try:
            return pyarrow.parquet.ParquetFile(str(self.path))
        except (OSError, ValueError) as error:
            raise SourceError(self.path, "cannot be read as Parquet; it may be truncated") from error


def _numeric(kind: Any) -> bool:  # noqa: ANN401 - the library has no types
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
