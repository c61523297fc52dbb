"""What two single runs tell about one another, and what the meters leave open in a ratio of energies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from clisonix.meter.comparing.group_difference import Contrast
from clisonix.meter.comparing.intervals import Z95
from clisonix.meter.comparing.proportions import independent_difference, paired_difference
from clisonix.meter.comparing.runs import Parts, Run
from clisonix.meter.comparing.serial_correlation import FEWEST, resemblance, variance_of_mean
from clisonix.meter.energy import MODELLED, modelled

ONE_RUN = "within-run: says nothing about other seeds"


def within_runs(run_a: Run, run_b: Run, quantity: str, total_a: float, total_b: float) -> tuple[Contrast | None, str]:
    """The log ratio of two runs' totals, from how the epochs of each phase scatter.

    Args:
        run_a: the reference.
        run_b: what is compared with it.
        quantity: `time` or `energy`.
        total_a: the value of the whole window `train`, > 0.
        total_b: likewise.

    Returns:
        The contrast, or None, and a sentence on how it was obtained or why it is missing.
    """
    phases_a, phases_b = _long_phases(run_a, quantity), _long_phases(run_b, quantity)
    if not phases_a or not phases_b:
        why = f"a run has no phase with {FEWEST} metered epochs; fewer cannot tell chance from drift"
        return None, f"No interval: {why}."
    how = (
        "Student's t on the epochs of each phase, whose neighbours resemble each other by "
        f"{resemblance(phases_a + phases_b):.2f} (0 to 1); what has fewer than {FEWEST} epochs is taken to vary like "
        f"the rest; {ONE_RUN}."
    )
    return within_series(phases_a, phases_b, total_a, total_b), how


def within_series(
    phases_a: list[list[float]], phases_b: list[list[float]], total_a: float, total_b: float
) -> Contrast:
    """The log ratio of two totals, from the scatter of their parts.

    Args:
        phases_a: values of the epochs of each phase of the reference, at least `FEWEST` in each.
        phases_b: likewise of what is compared with it.
        total_a: the whole, of which the phases are most.
        total_b: likewise.
    """
    alike = resemblance(phases_a + phases_b)
    share_a, freedom_a = _scatter(phases_a, total_a, alike)
    share_b, freedom_b = _scatter(phases_b, total_b, alike)
    error = math.sqrt(share_a + share_b)
    freedom = (share_a + share_b) ** 2 / (share_a**2 / freedom_a + share_b**2 / freedom_b) if error else 1.0
    return Contrast(math.log(total_b / total_a), error, freedom, error, 1, 1, False)


def _long_phases(run: Run, quantity: str) -> list[list[float]]:
    phases = [list(map(float, values)) for values in (run.epochs(quantity) or {}).values()]
    return [values for values in phases if len(values) >= FEWEST and sum(values) > 0]


def _scatter(phases: list[list[float]], total: float, alike: float) -> tuple[float, float]:
    """Relative variance of a run's total, and its degrees of freedom."""
    means = [(len(values), *variance_of_mean(values, alike)) for values in phases]
    parts = [(n * n * variance, freedom) for n, variance, freedom in means]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0, 1.0
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    # What was not seen to vary (a short phase, the compression) is given the same variance per joule or second.
    return variance * max(1.0, total / sum(map(sum, phases))) / total**2, freedom


def with_metering(found: Contrast, runs_a: Sequence[Run], runs_b: Sequence[Run], shared: bool) -> Contrast:
    """Add what the meters leave open to the log ratio of two sides' energies.

    A counter's error differs from run to run, so with several runs it is in their spread already; a model's
    coefficient is the same error in each and averages out in none.

    Args:
        found: from the spread of epochs or runs.
        runs_a: the reference.
        runs_b: what is compared with it.
        shared: all runs used one model on one machine, so its coefficient is one unknown number, not two.
    """
    a, b = Parts.sum(map(Parts.of, runs_a)), Parts.sum(map(Parts.of, runs_b))
    if len(runs_a) > 1 or len(runs_b) > 1:
        a, b = (replace(side, measured_low=side.measured, measured_high=side.measured) for side in (a, b))
    central = dict.fromkeys({**a.models, **b.models}, 1.0)
    if min(a.at(a.measured, central), b.at(b.measured, central)) <= 0:
        return found  # the record has a total but no devices: nothing more is known
    centre = b.at(b.measured, central) / a.at(a.measured, central)
    lows, highs = [], []
    # Monotone in every coefficient, so the corners of their ranges bound the ratio.
    for ends_a in product((0, 1), repeat=len(central)):
        for ends_b in [ends_a] if shared else product((0, 1), repeat=len(central)):
            scales_a, scales_b = _scales(a, central, ends_a), _scales(b, central, ends_b)
            lows.append(b.at(b.measured_low, scales_b) / a.at(a.measured_high, scales_a))
            highs.append(b.at(b.measured_high, scales_b) / max(a.at(a.measured_low, scales_a), 1e-12))
    low, high = min(lows), max(highs)
    return replace(
        found,
        slack_low=max(0.0, math.log(centre / max(low, 1e-12 * centre))),
        slack_high=max(0.0, math.log(high / centre)),
    )


def _scales(parts: Parts, sources: Iterable[str], ends: Sequence[int]) -> dict[str, float]:
    """Coefficients at one end of their range each."""
    models = [(source, parts.models.get(source), end) for source, end in zip(sources, ends, strict=True)]
    return {source: (model.scale_high if end else model.scale_low) if model else 1.0 for source, model, end in models}


def same_model(runs: Sequence[Run]) -> bool:
    """Whether every run used the same models with the same parameters."""
    used = [{(p.source, p.detail) for p in run.record.devices("train") if modelled(p.source)} for run in runs]
    return bool(used[0]) and all(models == used[0] for models in used)


def model_note(runs: Sequence[Run], shared: bool) -> str:
    """The sentence on how a model's uncertainty enters a ratio; empty where nothing was modelled."""
    sources = {word for run in runs for word in run.train.source.split("+") if run.train.joules is not None}
    if not any(map(modelled, sources)):
        return ""
    if not shared:
        return "The energy is partly or wholly modelled, and the models' uncertainty is counted on both sides."
    if sources == {MODELLED}:
        return "This is a ratio of CPU time: both sides use the same model, so its coefficient cancels."
    return "A share is modelled, with one coefficient for both sides; single runs' intervals hold its range."


def quality_of_two(run_a: Run, run_b: Run) -> tuple[Contrast | None, tuple[float, float] | None, str]:
    """The difference in accuracy of two runs in percentage points, from their predictions.

    Returns:
        The contrast (with a symmetric error), the interval, and how it was obtained; None where a run has no
        predictions.
    """
    a, b = run_a.predictions(), run_b.predictions()
    if a is None or b is None:
        return None, None, "No interval: a run has no predictions.npz."
    if np.array_equal(a.label, b.label):
        n = len(a.label)
        gained, lost = int((b.correct & ~a.correct).sum()), int((a.correct & ~b.correct).sum())
        found = paired_difference(gained, lost, n)
        how = f"Paired score interval over {n} test samples, {gained + lost} of which the two runs judge differently"
    else:
        found = independent_difference(int(a.correct.sum()), len(a.label), int(b.correct.sum()), len(b.label))
        how = "Unpaired score interval: the runs were tested on different samples"
    centre, low, high = (100.0 * value for value in found)
    contrast = Contrast(centre, (high - low) / 2 / Z95, 1e5, (high - low) / 2 / Z95, 1, 1, False)
    return contrast, (low, high), f"{how}; test samples are taken as independent; {ONE_RUN}."
