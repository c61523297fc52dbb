"""Does the new side regress by more than a margin? One answer for continuous integration.

For each metric the tested hypothesis is: the true regression of b against a is at most the margin. The gate fails
only when that is refuted, that is when the lower confidence bound of the regression exceeds the margin; a wide
interval is no failure. With `prove` it passes only when the opposite hypothesis is refuted too (non-inferiority:
the upper bound is below the margin), and otherwise says that it cannot tell.

The levels of all metrics together are held to `LEVEL` by Bonferroni's inequality, so that adding metrics adds no
false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clisonix.errors import ClisonixError
from clisonix.meter.comparing.compare import read_sides
from clisonix.meter.comparing.group_difference import Contrast
from clisonix.meter.comparing.margins import limits
from clisonix.meter.comparing.metrics import Measured, measure
from clisonix.meter.comparing.planning import detectable

LEVEL = 0.04
"""Of all metrics together. The promise is 5 %; a fifth is kept for noise that is not normal."""
PROOF_LEVEL = 0.05
"""Of each non-inferiority test; all must succeed, so no correction is due."""
ADVERTISED = 0.85
"""Power at the effect that is advertised as seen in 4 of 5 cases; the rest is kept for noise that is not normal."""

Verdict = Literal["pass", "regress", "cannot tell"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "regress": 1, "cannot tell": 2}


@dataclass(frozen=True)
class Judgement:
    """The gate's word on one metric. Regressions are fractions, or for quality its own unit; positive is worse.

    Attributes:
        metric: which.
        unit: of quality; empty for fractions.
        margin: the regression that is allowed.
        verdict: `pass`, `regress` or `cannot tell`.
        regression: the estimate, or None.
        low: lower confidence bound, or None; `regress` means that it exceeds the margin.
        high: upper confidence bound, or None.
        p: p value against "at most the margin", or None.
        sees: the smallest regression that a gate with these runs and this spread reports in 4 of 5 cases, or None.
        reason: one sentence.
    """

    metric: str
    unit: str
    margin: float
    verdict: Verdict
    regression: float | None
    low: float | None
    high: float | None
    p: float | None
    sees: float | None
    reason: str


@dataclass(frozen=True)
class Gate:
    """The gate's word on all metrics.

    Attributes:
        a: folder names of the reference runs.
        b: folder names of the runs that are judged.
        verdict: `regress` if any metric does, else `cannot tell` if any cannot, else `pass`.
        judgements: one per metric.
        notes: sentences that limit what may be concluded.
        prove: whether a pass needed proof.
    """

    a: list[str]
    b: list[str]
    verdict: Verdict
    judgements: list[Judgement]
    notes: list[str]
    prove: bool

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regress, 2 cannot tell."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {"schema": "clisonix.gate/1", **asdict(self), "exit_code": self.exit_code}


def gate(
    a: Sequence[Path],
    b: Sequence[Path],
    margins: Mapping[str, float],
    *,
    prove: bool = False,
    within_run: bool = False,
    force: bool = False,
) -> Gate:
    """Judge the runs of side b against those of side a.

    Args:
        a: folders of the reference: runs, or folders that hold runs (seeds).
        b: folders of what is judged.
        margins: metric to the regression that is allowed; see `parse_margins`.
        prove: pass only where it is shown that the regression is below the margin.
        within_run: judge one run against one by how their epochs and test samples scatter, which ignores that
            runs differ from one another by chance.
        force: judge even where hardware, task or the way of metering differ; the notes then say so.

    Raises:
        ClisonixError: no margin is given, a folder holds no run, or the sides are not comparable.
    """
    if not margins:
        raise ClisonixError("the gate needs a margin: give at least one --max-regress, like --max-regress energy=2%")
    sides = read_sides(a, b, force)
    level = LEVEL / len(margins)
    judgements = [
        judge(measure(metric, sides.a, sides.b, sides.alike), margin, level=level, prove=prove, within_run=within_run)
        for metric, margin in margins.items()
    ]
    verdicts = {judgement.verdict for judgement in judgements}
    order: tuple[Verdict, ...] = ("regress", "cannot tell", "pass")
    verdict = next(word for word in order if word in verdicts)
    return Gate(*sides.names, verdict, judgements, sides.notes, prove)


def judge(
    measured: Measured, margin: float, *, level: float = LEVEL, prove: bool = False, within_run: bool = False
) -> Judgement:
    """Judge one metric.

    Args:
        measured: both sides.
        margin: the regression that is allowed.
        level: of the test that reports a regression.
        prove: see `gate`.
        within_run: see `gate`.
    """
    bound = limits(margin, measured.relative)[1]
    found = measured.found
    if found is None and (values := measured.values) is not None and 1 in map(len, values) and not measured.single:
        return _one_against_many(measured, *values, margin, level, prove)
    if found is None:
        return _cannot(measured, margin, measured.how)
    if measured.single and found.error > 0 and not within_run:
        reason = (
            "one run on each side shows nothing of the chance between runs: give more runs, or --within-run to judge "
            "these two alone"
        )
        return _cannot(measured, margin, reason)
    if measured.higher_is_better:
        found = found.turned()
    verdict, p, proven = decide(found, bound, level, prove)
    low, high = found.interval(1 - 2 * level)[0], found.interval(1 - 2 * PROOF_LEVEL)[1]
    sees = bound + found.slack_low + detectable(found, level, ADVERTISED)
    if found.error == 0:
        design = "values that do not vary"
    else:
        design = "the two runs' own epochs or test samples" if measured.single else found.design
    centre, low, high, sees = (_shown(measured, x) for x in (found.effect, low, high, sees))
    return Judgement(
        measured.metric, _unit(measured), margin, verdict, centre, low, high, p, sees,
        f"{_because(verdict, prove, proven)}, from {design}",
    )  # fmt: skip


def decide(found: Contrast, bound: float, level: float = LEVEL, prove: bool = False) -> tuple[Verdict, float, bool]:
    """The decision itself.

    Args:
        found: with a positive effect for a regression.
        bound: the margin, in the unit of `found`.
        level: of the test that reports a regression.
        prove: see `gate`.

    Returns:
        The verdict, the p value against "at most the margin", and whether less than the margin is shown.
    """
    p, proven = found.above(bound), found.below(bound) < PROOF_LEVEL
    return _verdict(p < level, proven, prove), p, proven


def _one_against_many(
    measured: Measured, a: list[float], b: list[float], margin: float, level: float, prove: bool
) -> Judgement:
    """Ranks alone: a single run has no spread, and to a t test one outlier would look like a regression."""
    sign = -1.0 if measured.higher_is_better else 1.0
    bound = limits(margin, measured.relative)[1]
    steps = [sign * (y - x) for x in a for y in b]
    n = len(steps)
    p, p_proof = ((1 + sum(hit)) / (n + 1) for hit in ([s <= bound for s in steps], [s >= bound for s in steps]))
    centre = sorted(steps)[n // 2]
    floor = 1 / (n + 1)
    if floor >= level or (prove and floor >= PROOF_LEVEL):
        fewest = math.ceil(1 / min(level, PROOF_LEVEL if prove else 1.0))
        reason = (
            f"one run against {n}: a single outlier cannot be told from a regression; give at least 2 runs on each "
            f"side, or {fewest} against one"
        )
        return _cannot(measured, margin, reason)
    verdict = _verdict(p < level, p_proof < PROOF_LEVEL, prove)
    return Judgement(
        measured.metric, _unit(measured), margin, verdict, _shown(measured, centre), None, None, p, None,
        f"{_because(verdict, prove, p_proof < PROOF_LEVEL)}, from the rank of one run among {n}",
    )  # fmt: skip


def _verdict(regresses: bool, proven: bool, prove: bool) -> Verdict:
    if regresses:
        return "regress"
    return "pass" if proven or not prove else "cannot tell"


def _because(verdict: Verdict, prove: bool, proven: bool) -> str:
    if verdict == "regress":
        return "the regression exceeds the margin"
    if proven:
        return "the regression is shown to be below the margin"
    return "a regression below the margin is not shown" if prove else "a regression above the margin is not shown"


def _cannot(measured: Measured, margin: float, reason: str) -> Judgement:
    effect = measured.effect
    if effect is not None:
        effect = effect - 1 if measured.relative else (-effect if measured.higher_is_better else effect)
    return Judgement(
        measured.metric, _unit(measured), margin, "cannot tell", effect, None, None, None, None, reason.rstrip(".")
    )


def _shown(measured: Measured, value: float) -> float:
    return math.expm1(value) if measured.relative else value


def _unit(measured: Measured) -> str:
    return "" if measured.relative else measured.unit
