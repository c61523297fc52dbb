"""Intervals for ratios and differences between runs.

One run on each side: a percentile bootstrap (Efron 1979) within the runs. Several: Student's t on what is
paired by seed, else Welch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clisonix.meter.energy import MODELLED
from clisonix.meter.intervals import mean_interval, welch_interval
from clisonix.meter.runs import Parts, Run

RESAMPLES = 4000
FEWEST_EPOCHS = 3
"""Below this many epochs a phase has no spread worth resampling."""
ENOUGH_EPOCHS = 10
"""Below this many the percentile bootstrap covers visibly less than 95 %, and the sentence says so."""


@dataclass(frozen=True)
class Interval:
    """Two ends of a 95 % interval, or None, and one or more sentences on how it was obtained."""

    low: float | None
    high: float | None
    how: str


def within_runs(run_a: Run, run_b: Run, quantity: str, total_a: float, total_b: float) -> Interval:
    """The ratio of two runs' totals, by resampling epochs within each phase of each run.

    Args:
        run_a: the reference.
        run_b: what is compared with it.
        quantity: `time` or `energy`.
        total_a: the value of the whole window `train`, > 0.
        total_b: likewise.
    """
    rng = np.random.default_rng(0)  # the same folders must give the same interval
    draws = [_resampled(run, quantity, total, rng) for run, total in ((run_a, total_a), (run_b, total_b))]
    if draws[0] is None or draws[1] is None:
        return Interval(None, None, f"No interval: a run has no phase with {FEWEST_EPOCHS} metered epochs.")
    low, high = np.percentile(draws[1] / draws[0], [2.5, 97.5])
    fewest = min(
        len(values)
        for run in (run_a, run_b)
        for values in (run.epochs(quantity) or {}).values()
        if len(values) >= FEWEST_EPOCHS
    )
    how = (
        "Bootstrap over the epochs of each phase, within-run: says nothing about other seeds, takes epochs as "
        f"independent, holds phases of fewer than {FEWEST_EPOCHS} epochs fixed"
    )
    how += f"; with {fewest} epochs it is too narrow." if fewest < ENOUGH_EPOCHS else "."
    return Interval(float(low), float(high), how)


def with_metering(inner: Interval, run_a: Run, run_b: Run, shared: bool) -> Interval:
    """Widen an energy ratio's interval by what the meters leave open.

    Args:
        inner: the interval from the spread of epochs.
        run_a: the reference.
        run_b: what is compared with it.
        shared: both runs used one model on one machine, so its coefficient is one unknown number, not two.
    """
    if inner.low is None or inner.high is None:
        return inner
    a, b = Parts.of(run_a), Parts.of(run_b)
    central = (b.measured + b.modelled) / (a.measured + a.modelled)
    if shared:
        # Monotone in the common coefficient, so its two ends bound the ratio.
        scales = (max(a.scale_low, b.scale_low), min(a.scale_high, b.scale_high))
        lows = [(b.measured_low + k * b.modelled) / (a.measured_high + k * a.modelled) for k in scales]
        highs = [(b.measured_high + k * b.modelled) / max(a.measured_low + k * a.modelled, 1e-12) for k in scales]
        low, high = min(lows), max(highs)
    else:
        (low_a, high_a), (low_b, high_b) = a.bounds(), b.bounds()
        low, high = low_b / high_a, high_b / max(low_a, 1e-12)
    return replace(inner, low=inner.low * min(1.0, low / central), high=inner.high * max(1.0, high / central))


def same_model(runs: Sequence[Run]) -> bool:
    """Whether every run used the same CPU model with the same parameters."""
    return len({part.detail for run in runs for part in run.record.devices("train") if part.source == MODELLED}) == 1


def model_note(runs: Sequence[Run], shared: bool) -> str:
    """The sentence on how a model's uncertainty enters a ratio; empty where nothing was modelled."""
    sources = {word for run in runs for word in run.train.source.split("+") if run.train.joules is not None}
    if MODELLED not in sources:
        return ""
    if not shared:
        return "The energy is partly or wholly modelled, and the models' uncertainty is counted on both sides."
    if sources == {MODELLED}:
        return "This is a ratio of CPU time: both sides use the same model, so its coefficient cancels."
    return "The CPU's share is modelled, with one coefficient for both sides; single runs' intervals hold its range."


def across_runs(
    a: Sequence[float], b: Sequence[float], seeds_a: Sequence[int | None], seeds_b: Sequence[int | None]
) -> tuple[float, Interval]:
    """Ratio of geometric means, and its interval from t on log ratios."""
    logs_a, logs_b = [math.log(x) for x in a], [math.log(x) for x in b]
    centre, found = differences(logs_a, logs_b, seeds_a, seeds_b)
    if found.low is None or found.high is None:
        return math.exp(centre), found
    how = found.how.replace("differences", "log ratios").replace("difference", "log ratio")
    return math.exp(centre), Interval(math.exp(found.low), math.exp(found.high), how)


def differences(
    a: Sequence[float], b: Sequence[float], seeds_a: Sequence[int | None], seeds_b: Sequence[int | None]
) -> tuple[float, Interval]:
    """Difference of means b - a: paired by seed where the seeds match, else Welch."""
    pairs = _paired(a, b, seeds_a, seeds_b)
    if pairs is not None:
        centre, low, high = mean_interval(pairs)
        left_out = len(a) + len(b) - 2 * len(pairs)
        rest = f" {left_out} runs without a partner are left out." if left_out else ""
        return centre, Interval(
            low, high, f"Student's t on the differences of {len(pairs)} pairs of equal seed.{rest}"
        )
    centre = sum(b) / len(b) - sum(a) / len(a)
    if len(a) < 2 or len(b) < 2:
        return centre, Interval(None, None, "No interval: one side has a single run and the seeds do not pair.")
    centre, low, high = welch_interval(a, b)
    return centre, Interval(low, high, f"Welch's t on the difference of {len(b)} and {len(a)} unpaired runs.")


def quality_of_two(run_a: Run, run_b: Run) -> Interval:
    """The difference in accuracy of two runs in percentage points, by resampling test samples."""
    found_a, found_b = run_a.predictions(), run_b.predictions()
    if found_a is None or found_b is None:
        return Interval(None, None, "No interval: a run has no predictions.npz.")
    rng = np.random.default_rng(0)
    if np.array_equal(found_a.label, found_b.label):
        step = found_b.correct.astype(int) - found_a.correct.astype(int)
        counts = np.array([(step < 0).sum(), (step == 0).sum(), (step > 0).sum()])
        draws = rng.multinomial(len(step), counts / len(step), RESAMPLES)
        values, n = 100.0 * (draws[:, 2] - draws[:, 0]) / len(step), int(counts[0] + counts[2])
        how = f"Paired bootstrap over the same {len(step)} test samples, {n} of which the two runs judge differently"
        how += "; so few make the interval too narrow." if n < 10 else "."
    else:
        (n_a, p_a), (n_b, p_b) = ((len(p.label), float(p.correct.mean())) for p in (found_a, found_b))
        values = 100.0 * (rng.binomial(n_b, p_b, RESAMPLES) / n_b - rng.binomial(n_a, p_a, RESAMPLES) / n_a)
        how = "Unpaired bootstrap: the runs were tested on different samples."
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high), f"{how} Within-run: says nothing about other seeds.")


def _paired(
    a: Sequence[float], b: Sequence[float], seeds_a: Sequence[int | None], seeds_b: Sequence[int | None]
) -> list[float] | None:
    unique: Callable[[Sequence[int | None]], bool] = lambda seeds: None not in seeds and len(set(seeds)) == len(seeds)  # noqa: E731
    if not unique(seeds_a) or not unique(seeds_b):
        return None
    of_a = dict(zip(seeds_a, a, strict=True))
    pairs = [value - of_a[seed] for seed, value in zip(seeds_b, b, strict=True) if seed in of_a]
    # Dropping most runs to pair a few would waste them: pair only when the smaller side pairs whole.
    return pairs if len(pairs) >= 2 and len(pairs) == min(len(a), len(b)) else None


def _resampled(run: Run, quantity: str, total: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
    phases = run.epochs(quantity)
    if phases is None or all(len(values) < FEWEST_EPOCHS for values in phases.values()):
        return None
    draws = np.full(RESAMPLES, total)
    for values in phases.values():
        if len(values) >= FEWEST_EPOCHS:
            picked = rng.choice(values, (RESAMPLES, len(values)))
            draws += picked.sum(axis=1) - values.sum()
    positive: NDArray[np.float64] = np.maximum(draws, 1e-12)
    return positive
