"""How two groups of runs differ, and how sure that is: one estimate that intervals, tests and plans share.

Paired by seed where the seeds match (Student's t on the differences), else Welch's t (1947). Ratios are differences
of logarithms, so that a factor of 2 up and a factor of 2 down are equally far from no change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clisonix.meter.comparing.intervals import t_above, t_quantile


@dataclass(frozen=True)
class Contrast:
    """Estimated difference b - a with its standard error.

    Attributes:
        effect: b - a, in the unit of the values (of logarithms, for ratios).
        error: standard error of `effect`; 0 when nothing varied.
        freedom: degrees of freedom of `error`.
        spread: standard deviation of one pair's difference (paired), or of one run's value (unpaired).
        n_a: runs of side a that were used.
        n_b: runs of side b that were used.
        paired: whether runs were matched by seed.
        left_out: runs without a partner, where runs were matched.
        slack_low: how much lower the effect may be for a reason that more runs do not average out.
        slack_high: likewise, higher.
    """

    effect: float
    error: float
    freedom: float
    spread: float
    n_a: int
    n_b: int
    paired: bool
    left_out: int = 0
    slack_low: float = 0.0
    slack_high: float = 0.0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The two-sided interval of `effect`."""
        half = t_quantile((1 + level) / 2, self.freedom) * self.error if self.error else 0.0
        return self.effect - half - self.slack_low, self.effect + half + self.slack_high

    def above(self, margin: float) -> float:
        """P value against the hypothesis that the true effect is at most `margin`."""
        return self._tail(self.effect - self.slack_low - margin)

    def below(self, margin: float) -> float:
        """P value against the hypothesis that the true effect is at least `margin`."""
        return self._tail(margin - self.effect - self.slack_high)

    def turned(self) -> Contrast:
        """The same difference, counted from b to a."""
        return replace(self, effect=-self.effect, slack_low=self.slack_high, slack_high=self.slack_low)

    @property
    def design(self) -> str:
        """One phrase on what was compared with what."""
        if self.paired:
            rest = f" ({self.left_out} runs without a partner are left out)" if self.left_out else ""
            return f"{self.n_a} pairs of equal seed{rest}"
        return f"{self.n_b} and {self.n_a} unpaired runs"

    def _tail(self, distance: float) -> float:
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return t_above(distance / self.error, self.freedom)


def contrast(
    a: Sequence[float],
    b: Sequence[float],
    seeds_a: Sequence[int | None],
    seeds_b: Sequence[int | None],
    resolution: float = 0.0,
) -> Contrast | None:
    """The difference of two groups of values.

    Args:
        a: one value per run of the reference.
        b: one value per run of what is compared with it.
        seeds_a: the runs' seeds, in the same order.
        seeds_b: likewise.
        resolution: smallest step between two possible values; equal values say no more than that.

    Returns:
        The contrast; None when a side has a single run and the seeds do not pair, so nothing shows the spread.
    """
    # A value rounded to a step is uncertain by at least a uniform distribution over it.
    least = resolution / math.sqrt(12)
    pairs = paired(a, b, seeds_a, seeds_b)
    if pairs is not None:
        n = len(pairs)
        spread = max(_deviation(pairs), least * math.sqrt(2))
        return Contrast(
            math.fsum(pairs) / n, spread / math.sqrt(n), n - 1.0, spread, n, n, True, len(a) + len(b) - 2 * n
        )
    if len(a) < 2 or len(b) < 2:
        return None
    n_a, n_b = len(a), len(b)
    spread_a, spread_b = max(_deviation(a), least), max(_deviation(b), least)
    share_a, share_b = spread_a**2 / n_a, spread_b**2 / n_b
    total = share_a + share_b
    freedom = total**2 / (share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1)) if total else n_a + n_b - 2.0
    typical = math.sqrt((spread_a**2 + spread_b**2) / 2)
    return Contrast(
        math.fsum(b) / n_b - math.fsum(a) / n_a, math.sqrt(total), freedom, typical, n_a, n_b, False
    )  # fmt: skip


def paired(
    a: Sequence[float], b: Sequence[float], seeds_a: Sequence[int | None], seeds_b: Sequence[int | None]
) -> list[float] | None:
    """The differences b - a of runs of equal seed; None where the seeds do not pair the smaller side whole."""
    if not _unique(seeds_a) or not _unique(seeds_b):
        return None
    of_a = dict(zip(seeds_a, a, strict=True))
    pairs = [value - of_a[seed] for seed, value in zip(seeds_b, b, strict=True) if seed in of_a]
    # Dropping most runs to pair a few would waste them: pair only when the smaller side pairs whole.
    return pairs if len(pairs) >= 2 and len(pairs) == min(len(a), len(b)) else None


def _unique(seeds: Sequence[int | None]) -> bool:
    return None not in seeds and len(set(seeds)) == len(seeds)


def _deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
