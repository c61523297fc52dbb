"""Two runs, or two groups of runs, side by side: values, ratios and 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.comparing.equivalence import Equivalence, Needed, equivalence, needed
from clisonix.meter.comparing.matching import Condition, condition_notes, conditions_of, obstacles, order_note
from clisonix.meter.comparing.metrics import METRICS, Measured, measure
from clisonix.meter.comparing.runs import Run, find_runs


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
        equivalence: the test against the margin that was given, or None.
        needed: how many more runs the question needs.
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
    equivalence: Equivalence | None = None
    needed: Needed | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a: folder names of the runs on side a.
        b: folder names of the runs on side b.
        rows: one per metric.
        notes: sentences that limit what may be concluded.
        conditions: circumstances of the runs, side by side.
    """

    a: list[str]
    b: list[str]
    rows: list[Row]
    notes: list[str]
    conditions: list[Condition] = field(default_factory=list)

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
        return {"schema": "clisonix.comparison/2", **asdict(self)}


@dataclass(frozen=True)
class Sides:
    """Two groups of runs that may be compared.

    Attributes:
        a: the reference.
        b: what is compared with it.
        notes: sentences on what was forced, and on the circumstances.
        conditions: the circumstances.
        alike: nothing had to be forced.
    """

    a: list[Run]
    b: list[Run]
    notes: list[str]
    conditions: list[Condition]
    alike: bool

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Folder names of both sides."""
        return [run.name for run in self.a], [run.name for run in self.b]


def read_sides(a: Sequence[Path], b: Sequence[Path], force: bool = False) -> Sides:
    """Read two groups of runs and check that they may be compared.

    Raises:
        ClisonixError: a folder holds no run, or the sides are not comparable and `force` is not set.
    """
    runs_a, runs_b = find_runs(a), find_runs(b)
    found = obstacles(runs_a, runs_b)
    if found and not force:
        raise ClisonixError(f"these runs are not comparable: {'; '.join(found)}; add --force to compare all the same")
    conditions = conditions_of(runs_a, runs_b)
    notes = [f"Forced: {obstacle}." for obstacle in found]
    if not found:
        notes.append("Task, hardware, energy source, scope and measure of quality are the same on both sides.")
    notes += condition_notes(conditions)
    if order := order_note(runs_a, runs_b):
        notes.append(order)
    return Sides(runs_a, runs_b, notes, conditions, not found)


def compare(
    a: Sequence[Path], b: Sequence[Path], force: bool = False, margins: Mapping[str, float] | None = None
) -> Comparison:
    """Compare two runs, or two groups of runs.

    Args:
        a: folders of the reference: runs, or folders that hold runs (seeds).
        b: folders of what is compared with it.
        force: compare even where hardware, task or the way of metering differ; the notes then say so.
        margins: metric to margin, for an equivalence test: a fraction, or for quality its own unit.

    Raises:
        ClisonixError: a folder holds no run, or the sides are not comparable and `force` is not set.
    """
    sides = read_sides(a, b, force)
    notes = list(sides.notes)
    if len(sides.a) == len(sides.b) == 1:
        notes.append("One run on each side: the intervals say nothing about other seeds.")
    rows = [_row(measure(metric, sides.a, sides.b, sides.alike), (margins or {}).get(metric)) for metric in METRICS]
    return Comparison(*sides.names, rows, notes, sides.conditions)


def _row(measured: Measured, margin: float | None) -> Row:
    mean_a, mean_b = measured.means
    effect = measured.effect
    low, high = measured.interval or (measured.found.interval() if measured.found else (None, None))
    if measured.relative:
        low, high = (None if end is None else math.exp(end) for end in (low, high))
    none = (None, None, None)
    shown = (effect, low, high)
    return Row(
        measured.metric, measured.unit, mean_a, mean_b,
        *(shown if measured.relative else none),
        *(none if measured.relative else shown),
        measured.how_a, measured.how_b, measured.how, measured.higher_is_better,
        None if margin is None else equivalence(measured, margin),
        needed(measured, margin),
    )  # fmt: skip
