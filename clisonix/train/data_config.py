"""The section `data` of a recipe: which recordings, how they are cut and split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from clisonix.errors import nearest


class Strict(BaseModel):
    """A section in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _texts(value: object) -> object:
    """Event codes are numbers in YAML and texts in JSON; here they are texts."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value


Labels = Annotated[dict[str, str], BeforeValidator(_texts)]


class _Files(Strict):
    """Files below the data root, one recording each, and the fields in their names."""

    files: str
    name: str = "{file}"


class _Labelled(_Files):
    """Files with events.

    `events` names the files whose events count: the same files, or others (hypnograms) whose fields, by
    `events_name`, say which recording they belong to. `labels` maps texts to classes and leaves out the rest;
    `every_s` makes one event per whole stretch of that length out of an annotation that lasts.
    """

    events: str | None = None
    events_name: str | None = None
    labels: Labels = {}
    every_s: float | None = Field(default=None, gt=0)


class FileSource(_Labelled):
    """Any format that `open_source` knows.

    `stream` is a stream of the file, where there are several; `channels` some of it, by name; `rate_hz` the rate,
    where the file does not say the true one. `units` are converted to. Without `events` the file's own events count;
    `markers` names the marker streams, annotators or columns that do.
    """

    reader: Literal["file"]
    stream: str | None = None
    channels: list[str] | None = Field(default=None, min_length=1)
    rate_hz: float | None = Field(default=None, gt=0)
    units: list[str] = []
    markers: list[str] | None = None


class AudioSource(_Files):
    """WAV or FLAC files."""

    reader: Literal["audio"]


class CsvSource(_Files):
    """Tables, CSV (plain or gzip) or Parquet, whose columns are named here. `time`, `marker`: column names."""

    reader: Literal["csv"]
    channels: list[str] = Field(min_length=1)
    rate_hz: float = Field(gt=0)
    time: str | None = None
    marker: str | None = None
    unit: str = ""


class EdfSource(_Labelled):
    """EDF, EDF+ or BDF files. Without `events` there are none."""

    reader: Literal["edf"]
    channels: list[str] = Field(min_length=1)


class PackedSource(Strict):
    """One NumPy archive that holds all recordings end to end.

    `samples` names the `(time, channels)` array, `lengths` the `(recordings,)` array of lengths, `fields` further
    `(recordings,)` arrays; `names` maps a field of integers to an array of their names.
    """

    reader: Literal["packed"]
    files: str
    rate_hz: float = Field(gt=0)
    samples: str = "X"
    lengths: str = "lengths"
    fields: list[str] = []
    names: dict[str, str] = {}
    columns: list[int] | None = None
    unit: str = ""


class WatchSource(Strict):
    """The shoulder exercises that the package seglearn ships; `columns` 0-2 acceleration, 3-5 angular rate."""

    reader: Literal["watch"]
    columns: list[int] | None = None


OneFileSource = FileSource | AudioSource | CsvSource | EdfSource
Source = Annotated[OneFileSource | PackedSource | WatchSource, Field(discriminator="reader")]
SOURCES: tuple[type[Strict], ...] = (FileSource, AudioSource, CsvSource, EdfSource, PackedSource, WatchSource)


class ClockConfig(Strict):
    """How a stream's clock stands to the recording's, where neither the file nor its stamps say it. One of four ways.

    `start_s`: its first sample is at this time. `anchors`: pairs of times of the same events, on the stream's own
    clock and on the recording's, `[[own_s, shared_s], ...]`, or a pattern of CSV files with two such columns whose
    fields, by `name`, say which recording they belong to. `edges` or `correlate`: a channel of the stream that saw
    what the channel `seen_by` of the stream `of` saw: switches between two levels, or anything that changes.
    `sd_s`: how good a single anchor is, needed where there are less than three. `max_lag_s`: how far the clocks may
    be apart for `correlate`.
    """

    start_s: float | None = None
    anchors: str | list[tuple[float, float]] | None = None
    name: str = "{file}"
    edges: str | None = None
    correlate: str | None = None
    of: str | None = None
    seen_by: str | None = None
    sd_s: float | None = Field(default=None, gt=0)
    max_lag_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> ClockConfig:
        ways = [n for n in ("start_s", "anchors", "edges", "correlate") if getattr(self, n) is not None]
        if len(ways) != 1:
            raise ValueError(f"give one of start_s, anchors, edges and correlate, not {' and '.join(ways) or 'none'}")
        seen = ways[0] in ("edges", "correlate")
        if seen != (self.of is not None) or seen != (self.seen_by is not None):
            raise ValueError("edges and correlate, and only they, need the stream `of` and its channel `seen_by`")
        return self


class WindowConfig(Strict):
    """How recordings are cut, in seconds. `hop_s` null: one window a recording. `around: events`: one an event."""

    length_s: float = Field(gt=0)
    hop_s: float | None = Field(default=None, gt=0)
    train_hop_s: float | None = Field(default=None, gt=0)
    around: Literal["events"] | None = None
    offset_s: float = 0.0


class SplitConfig(Strict):
    """Which recordings are held out for the test.

    Either `test` lists the held-out values of the field `by`, or the sorted values are dealt into `folds` groups
    (null: one value each) and group `fold` is held out.
    """

    by: str
    test: list[str | int] | None = None
    folds: int | None = Field(default=None, ge=2)
    fold: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_way(self) -> SplitConfig:
        if self.test is not None and (self.folds is not None or self.fold):
            raise ValueError("give either test or folds and fold, not both")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: folds count from 0")
        return self


class DataConfig(Strict):
    """What to learn from.

    `label`: the field that holds the class; null when events carry it. `clocks`: for streams whose clocks differ.
    `missing`: what to do with a recording that lacks a stream. `damaged`: whether a cut or damaged file is an error,
    or what is left of it counts.
    """

    streams: dict[str, Source] = Field(min_length=1)
    window: WindowConfig
    split: SplitConfig
    label: str | None = None
    clocks: dict[str, ClockConfig] = {}
    missing: Literal["mask", "drop", "fail"] = "mask"
    damaged: Literal["fail", "keep"] = "fail"
    credit: str = ""

    @model_validator(mode="after")
    def _clocks_have_streams(self) -> DataConfig:
        for name, clock in self.clocks.items():
            for stream in (name, *([] if clock.of is None else [clock.of])):
                if stream not in self.streams:
                    raise ValueError(f"clocks names the stream {stream!r}{nearest(stream, self.streams)}")
            if not isinstance(self.streams[name], OneFileSource):
                raise ValueError(f"the stream {name!r} of many recordings in one file cannot have another clock")
            if clock.of is not None and clock.of in self.clocks:
                raise ValueError(f"clocks sets {name!r} by {clock.of!r}, whose clock is to be set itself")
        return self


def keys_of_source(value: Any) -> type[Strict] | None:  # noqa: ANN401 - what YAML holds
    """The section that the tag of a stream picks."""
    return next((m for m in SOURCES if m.model_fields["reader"].annotation.__args__[0] == value), None)  # type: ignore[union-attr]
