"""Two runs, or two groups of runs, side by side: values, ratios and 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter import ratios
from clisonix.meter.ratios import Interval
from clisonix.meter.runs import Run, find_runs


@dataclass(frozen=True)
class Row:
    """One metric on both sides.

    Attributes:
        metric: `time`, `energy`, `size` or `quality`.
        unit: of `a`, `b` and the differences.
        a: value on side a (the mean over its runs), or None.
        b: likewise.
        ratio: b over a; None for quality and where a value is missing.
        ratio_low: lower end of the 95 % interval of the ratio, or None.
        ratio_high: upper end.
        difference: b minus a, for quality only.
        difference_low: lower end of the 95 % interval of the difference, or None.
        difference_high: upper end.
        how_a: how the value of side a was obtained.
        how_b: likewise.
        interval: how the interval was obtained, or why there is none.
        higher_is_better: whether a larger value is the better one.
    """

    metric: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    how_a: str
    how_b: str
    interval: str
    higher_is_better: bool


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a: folder names of the runs on side a.
        b: folder names of the runs on side b.
        rows: one per metric.
        notes: sentences that limit what may be concluded.
    """

    a: list[str]
    b: list[str]
    rows: list[Row]
    notes: list[str]

    def row(self, metric: str) -> Row:
        """The row of a metric; ClisonixError when there is none of that name."""
        for row in self.rows:
            if row.metric == metric:
                return row
        raise ClisonixError(
            f"there is no metric {metric!r} to compare; there are {', '.join(r.metric for r in self.rows)}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {"schema": "clisonix.comparison/1", **asdict(self)}


def compare(a: Sequence[Path], b: Sequence[Path], force: bool = False) -> Comparison:
    """Compare two runs, or two groups of runs.

    Args:
        a: folders of the reference: runs, or folders that hold runs (seeds).
        b: folders of what is compared with it.
        force: compare even where hardware, task or the way of metering differ; the notes then say so.

    Raises:
        ClisonixError: a folder holds no run, or the sides are not comparable and `force` is not set.
    """
    runs_a, runs_b = find_runs(a), find_runs(b)
    obstacles = _obstacles(runs_a, runs_b)
    if obstacles and not force:
        raise ClisonixError(
            f"these runs are not comparable: {'; '.join(obstacles)}; add --force to compare all the same"
        )
    notes = [f"Forced: {obstacle}." for obstacle in obstacles]
    if len(runs_a) == len(runs_b) == 1:
        notes.append("One run on each side: the intervals say nothing about other seeds.")
    return Comparison(
        [run.folder.resolve().name for run in runs_a],
        [run.folder.resolve().name for run in runs_b],
        [
            _time(runs_a, runs_b),
            _energy(runs_a, runs_b, bool(obstacles)),
            _size(runs_a, runs_b),
            _quality(runs_a, runs_b),
        ],
        notes,
    )


def _obstacles(runs_a: list[Run], runs_b: list[Run]) -> list[str]:
    questions: list[tuple[str, Callable[[Run], object]]] = [
        ("the task", lambda run: run.record.task),
        ("the hardware", lambda run: ", ".join(run.hardware)),
        ("the way the energy was obtained", lambda run: run.train.source),
        ("what the energy covers", lambda run: run.train.scope),
        ("the measure of quality", lambda run: (run.record.quality or {}).get("metric")),
    ]
    found = []
    for what, ask in questions:
        # An unknown energy or quality is shown as unknown; it is no reason to refuse the rest.
        runs = [
            run
            for run in runs_a + runs_b
            if not what.endswith(("obtained", "covers")) or run.train.joules is not None
        ]
        answers = list(dict.fromkeys(str(ask(run)) for run in runs if ask(run) is not None))
        if len(answers) > 1:
            found.append(f"{what} differs ({' / '.join(answers)})")
    return found


def _time(runs_a: list[Run], runs_b: list[Run]) -> Row:
    a, b = [run.train_s for run in runs_a], [run.train_s for run in runs_b]

    def single() -> Interval:
        return ratios.within_runs(runs_a[0], runs_b[0], "time", a[0] or 0.0, b[0] or 0.0)

    return _ratio_row("time", "s", a, b, "monotonic clock", "monotonic clock", runs_a, runs_b, single)


def _energy(runs_a: list[Run], runs_b: list[Run], forced: bool) -> Row:
    a, b = [run.train.joules for run in runs_a], [run.train.joules for run in runs_b]
    shared = ratios.same_model(runs_a + runs_b) and not forced

    def single() -> Interval:
        inner = ratios.within_runs(runs_a[0], runs_b[0], "energy", a[0] or 0.0, b[0] or 0.0)
        return ratios.with_metering(inner, runs_a[0], runs_b[0], shared)

    row = _ratio_row("energy", "J", a, b, _hows(runs_a), _hows(runs_b), runs_a, runs_b, single)
    note = ratios.model_note(runs_a + runs_b, shared)
    return Row(**{**asdict(row), "interval": f"{row.interval} {note}".strip()})


def _size(runs_a: list[Run], runs_b: list[Run]) -> Row:
    a, b = [run.record.size.get("bytes") for run in runs_a], [run.record.size.get("bytes") for run in runs_b]

    def single() -> Interval:
        ratio = (b[0] or 0) / (a[0] or 1)
        return Interval(ratio, ratio, "Exact: bytes of the model files.")

    if len(set(a)) == len(set(b)) == 1:
        return _ratio_row("size", "bytes", a[:1], b[:1], "file", "file", runs_a[:1], runs_b[:1], single)
    return _ratio_row("size", "bytes", a, b, "file", "file", runs_a, runs_b, single)


def _ratio_row(
    metric: str,
    unit: str,
    a: Sequence[float | None],
    b: Sequence[float | None],
    how_a: str,
    how_b: str,
    runs_a: list[Run],
    runs_b: list[Run],
    single: Callable[[], Interval],
) -> Row:
    mean_a, mean_b = _mean(a), _mean(b)
    if mean_a is None or mean_b is None or min(x for x in [*a, *b] if x is not None) <= 0:
        found, ratio = Interval(None, None, "No interval: a value is missing."), None
    elif len(runs_a) == len(runs_b) == 1:
        found, ratio = single(), mean_b / mean_a
    else:
        values_a, values_b = [x for x in a if x is not None], [x for x in b if x is not None]
        ratio, found = ratios.across_runs(values_a, values_b, *_seeds(runs_a, runs_b))
    return Row(
        metric, unit, mean_a, mean_b, ratio, found.low, found.high, None, None, None, how_a, how_b, found.how, False
    )  # fmt: skip


def _quality(runs_a: list[Run], runs_b: list[Run]) -> Row:
    a, b = [_value(run) for run in runs_a], [_value(run) for run in runs_b]
    quality = runs_a[0].record.quality or runs_b[0].record.quality or {}
    scale, unit = (100.0, "points") if quality.get("metric") == "accuracy" else (1.0, str(quality.get("metric", "")))
    mean_a, mean_b = _mean(a), _mean(b)
    difference = None if mean_a is None or mean_b is None else scale * (mean_b - mean_a)
    if difference is None:
        found = Interval(None, None, "No interval: a value is missing.")
    elif len(runs_a) == len(runs_b) == 1:
        found = ratios.quality_of_two(runs_a[0], runs_b[0])
    else:
        values_a, values_b = [scale * (x or 0.0) for x in a], [scale * (x or 0.0) for x in b]
        difference, found = ratios.differences(values_a, values_b, *_seeds(runs_a, runs_b))
    return Row(
        "quality", unit,
        None if mean_a is None else scale * mean_a,
        None if mean_b is None else scale * mean_b,
        None, None, None, difference, found.low, found.high,
        str(quality.get("metric", "unknown")), str(quality.get("metric", "unknown")), found.how,
        bool(quality.get("higher_is_better", True)),
    )  # fmt: skip


def _value(run: Run) -> float | None:
    return None if run.record.quality is None else run.record.quality.get("value")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _seeds(runs_a: list[Run], runs_b: list[Run]) -> tuple[list[int | None], list[int | None]]:
    return [run.record.seed for run in runs_a], [run.record.seed for run in runs_b]


def _hows(runs: list[Run]) -> str:
    return "; ".join(dict.fromkeys(run.train.how() for run in runs))
