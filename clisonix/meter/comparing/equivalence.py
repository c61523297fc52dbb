"""Are two sides the same within a margin, and how many more runs would tell?

Two one-sided tests (Schuirmann 1987) at 5 % each: the sides count as equivalent when the whole 90 % interval lies
within the margin. For ratios the margin is symmetric in logarithms: 2 % means 1/1.02 to 1.02.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clisonix.meter.comparing.margins import limits, margin_text
from clisonix.meter.comparing.metrics import Measured
from clisonix.meter.comparing.planning import MOST_RUNS, runs_to_agree, runs_to_differ

LEVEL = 0.05


@dataclass(frozen=True)
class Equivalence:
    """The outcome of an equivalence test.

    Attributes:
        margin: fraction, or the metric's unit for quality.
        verdict: `equivalent`, `different` (the 95 % interval lies beyond the margin) or `undecided`.
        p: p value of the test; below 0.05 means equivalent.
        low: lower end of the 90 % interval, as a ratio or a difference.
        high: upper end.
        text: one sentence.
    """

    margin: float
    verdict: str
    p: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Needed:
    """How many more runs the question needs.

    Attributes:
        more: further pairs, or runs on each side; 0 when it is answered; None when that is not known.
        text: one sentence.
    """

    more: int | None
    text: str


def equivalence(measured: Measured, margin: float) -> Equivalence | None:
    """Test whether the sides are the same within a margin; None where the spread is not known."""
    found = measured.found
    if found is None:
        return None
    low, high = limits(margin, measured.relative)
    p = max(found.above(low), found.below(high))
    ends = found.interval(1 - 2 * LEVEL)
    wide = measured.interval or found.interval()
    verdict = "equivalent" if p < LEVEL else "different" if wide[0] > high or wide[1] < low else "undecided"
    shown = tuple(math.exp(x) if measured.relative else x for x in ends)
    said = {
        "equivalent": "the sides are equivalent within",
        "different": "the sides differ by more than",
        "undecided": "it is undecided whether the sides agree within",
    }[verdict]
    within = margin_text(measured.metric, margin, measured.unit)
    text = f"{measured.metric}: {said} {within} (two one-sided tests, p = {p:.2g})"
    return Equivalence(margin, verdict, p, shown[0], shown[1], text)


def needed(measured: Measured, margin: float | None) -> Needed:
    """How many more runs until the interval excludes no change, or until the margin is decided."""
    found, about = measured.found, f"{measured.metric}: "
    if found is None and None in (measured.a + measured.b):
        return Needed(None, about + "a value is missing, so more runs of this kind will not help")
    if found is None or (measured.single and found.error > 0):
        return Needed(
            None, about + "one run shows no spread between runs; add at least 2 on each side, of equal seeds"
        )
    low, high = (0.0, 0.0) if margin is None else limits(margin, measured.relative)
    border = "no change" if margin is None else "the margin"
    interval = measured.interval or found.interval()
    if found.error == 0 or interval[0] > high or interval[1] < low:
        return Needed(0, about + f"enough runs: the interval excludes {border}")
    if margin is not None and max(found.above(low), found.below(high)) < LEVEL:
        return Needed(0, about + "enough runs: equivalence is shown")
    inside = margin is not None and low < found.effect < high
    total = runs_to_agree(found, low, high) if inside else runs_to_differ(found, high)
    goal = "until equivalence is shown" if inside else f"until the interval excludes {border}"
    kind = "pairs" if found.paired else "runs on each side"
    if total is None:
        return Needed(None, about + f"more than {MOST_RUNS} {kind} {goal}: the difference is too near to it")
    more = max(1, total - min(found.n_a, found.n_b))
    return Needed(more, about + f"about {more} more {kind} {goal}, if difference and spread stay as they are")
