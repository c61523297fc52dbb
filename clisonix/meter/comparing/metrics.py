"""The four figures that runs are compared by, taken from both sides: time, energy, size and quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clisonix.meter.comparing import within_run as ratios
from clisonix.meter.comparing.group_difference import Contrast, contrast
from clisonix.meter.comparing.runs import Run

METRICS = ("time", "energy", "size", "quality")


@dataclass(frozen=True)
class Measured:
    """One metric on both sides.

    Attributes:
        metric: one of `METRICS`.
        unit: of the values and, for quality, of the difference.
        relative: whether sides are compared by their ratio (else by their difference).
        a: one value per run of side a; None where it is unknown.
        b: likewise.
        found: the contrast: of logarithms when `relative`, else of values; None where there is none.
        interval: the 95 % interval of `found`, where it is not the contrast's own.
        how: sentences on how the interval was obtained, or why there is none.
        how_a: how the values of side a were obtained.
        how_b: likewise.
        higher_is_better: whether a larger value is the better one.
    """

    metric: str
    unit: str
    relative: bool
    a: list[float | None]
    b: list[float | None]
    found: Contrast | None
    interval: tuple[float, float] | None
    how: str
    how_a: str
    how_b: str
    higher_is_better: bool = False

    @property
    def means(self) -> tuple[float | None, float | None]:
        """The mean of each side; None where a value is unknown."""
        return _mean(self.a), _mean(self.b)

    @property
    def effect(self) -> float | None:
        """b over a when `relative`, else b minus a; None where it is unknown."""
        mean_a, mean_b = self.means
        # With one value on a side their plain ratio is exact, and the way through logarithms is not.
        one_value = len(set(self.a)) == len(set(self.b)) == 1
        if self.found is not None and not (one_value and mean_a and mean_b):
            return math.exp(self.found.effect) if self.relative else self.found.effect
        if mean_a is None or mean_b is None or (self.relative and min(mean_a, mean_b) <= 0):
            return None
        return mean_b / mean_a if self.relative else mean_b - mean_a

    @property
    def single(self) -> bool:
        """Whether each side is one run, so that nothing is known about other seeds."""
        return len(self.a) == len(self.b) == 1

    @property
    def values(self) -> tuple[list[float], list[float]] | None:
        """All values of both sides, as logarithms when `relative`; None where one is unknown or has none."""
        known_a, known_b = [x for x in self.a if x is not None], [x for x in self.b if x is not None]
        if len(known_a) < len(self.a) or len(known_b) < len(self.b):
            return None
        if self.relative and min(known_a + known_b) <= 0:
            return None
        if not self.relative:
            return known_a, known_b
        return [math.log(x) for x in known_a], [math.log(x) for x in known_b]


def measure(metric: str, runs_a: list[Run], runs_b: list[Run], alike: bool = True) -> Measured:
    """Take one metric from both sides.

    Args:
        metric: one of `METRICS`.
        runs_a: the reference.
        runs_b: what is compared with it.
        alike: the sides ran on one kind of hardware, so a model's coefficient is the same unknown on both.
    """
    return {"time": _time, "energy": _energy, "size": _size, "quality": _quality}[metric](runs_a, runs_b, alike)


def _time(runs_a: list[Run], runs_b: list[Run], _alike: bool) -> Measured:
    a, b = [run.train_s for run in runs_a], [run.train_s for run in runs_b]
    found, how = _ratio(a, b, runs_a, runs_b, lambda x, y: ratios.within_runs(runs_a[0], runs_b[0], "time", x, y))
    return Measured("time", "s", True, a, b, found, None, how, "monotonic clock", "monotonic clock")


def _energy(runs_a: list[Run], runs_b: list[Run], alike: bool) -> Measured:
    a, b = [run.train.joules for run in runs_a], [run.train.joules for run in runs_b]
    found, how = _ratio(a, b, runs_a, runs_b, lambda x, y: ratios.within_runs(runs_a[0], runs_b[0], "energy", x, y))
    shared = ratios.same_model(runs_a + runs_b) and alike
    if found is not None:
        found = ratios.with_metering(found, runs_a, runs_b, shared)
    how = f"{how} {ratios.model_note(runs_a + runs_b, shared)}".strip()
    return Measured("energy", "J", True, a, b, found, None, how, _hows(runs_a), _hows(runs_b))


def _size(runs_a: list[Run], runs_b: list[Run], _alike: bool) -> Measured:
    a, b = [run.record.size.get("bytes") for run in runs_a], [run.record.size.get("bytes") for run in runs_b]
    exact = "Exact: bytes of the model files."
    if len(set(a)) == len(set(b)) == 1 and a[0] and b[0]:
        # A file's size does not scatter: one run says as much as many.
        found = Contrast(math.log(b[0] / a[0]), 0.0, 1.0, 0.0, len(a), len(b), False)
        return Measured("size", "bytes", True, a, b, found, None, exact, "file", "file")
    contrast, how = _ratio(a, b, runs_a, runs_b, lambda x, y: (None, exact))
    return Measured("size", "bytes", True, a, b, contrast, None, how, "file", "file")


def _quality(runs_a: list[Run], runs_b: list[Run], _alike: bool) -> Measured:
    quality = next((run.record.quality for run in runs_a + runs_b if run.record.quality), {})
    metric = str(quality.get("metric", "unknown"))
    scale, unit = (100.0, "points") if metric == "accuracy" else (1.0, "" if metric == "unknown" else metric)
    a, b = [_scaled(run, scale) for run in runs_a], [_scaled(run, scale) for run in runs_b]
    found, interval = None, None
    if _unknown(a + b):
        how = "No interval: a value is missing."
    elif len(a) == len(b) == 1 and metric != "accuracy":
        how = "No interval: of two single runs only accuracies can be compared, sample by sample."
    elif len(a) == len(b) == 1:
        found, interval, how = ratios.quality_of_two(runs_a[0], runs_b[0])
    else:
        n = quality.get("n")
        step = scale / n if metric == "accuracy" and n else 0.0
        known_a, known_b = [x for x in a if x is not None], [x for x in b if x is not None]
        found = contrast(known_a, known_b, *_seeds(runs_a, runs_b), resolution=step)
        how = _sentence(found, "difference")
    return Measured(
        "quality", unit, False, a, b, found, interval, how, metric, metric,
        bool(quality.get("higher_is_better", True)),
    )  # fmt: skip


def _ratio(
    a: Sequence[float | None],
    b: Sequence[float | None],
    runs_a: list[Run],
    runs_b: list[Run],
    single: Callable[[float, float], tuple[Contrast | None, str]],
) -> tuple[Contrast | None, str]:
    known_a, known_b = [x for x in a if x is not None], [x for x in b if x is not None]
    if _unknown([*a, *b]) or min(known_a + known_b) <= 0:
        return None, "No interval: a value is missing."
    if len(runs_a) == len(runs_b) == 1:
        return single(known_a[0], known_b[0])
    logs = [math.log(x) for x in known_a], [math.log(x) for x in known_b]
    found = contrast(*logs, *_seeds(runs_a, runs_b))
    return found, _sentence(found, "log ratio")


def _sentence(found: Contrast | None, what: str) -> str:
    if found is None:
        return "No interval: one side has a single run and the seeds do not pair."
    return f"{'Student' if found.paired else 'Welch'}'s t on the {what} of {found.design}."


def _unknown(values: Sequence[float | None]) -> bool:
    return any(value is None for value in values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _scaled(run: Run, scale: float) -> float | None:
    value = None if run.record.quality is None else run.record.quality.get("value")
    return None if value is None else scale * value


def _seeds(runs_a: list[Run], runs_b: list[Run]) -> tuple[list[int | None], list[int | None]]:
    return [run.record.seed for run in runs_a], [run.record.seed for run in runs_b]


def _hows(runs: list[Run]) -> str:
    return "; ".join(dict.fromkeys(run.train.how() for run in runs))
