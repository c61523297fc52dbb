"""When to sample next: often enough to see a counter's ticks, seldom enough to cost nothing."""

from __future__ import annotations

SHARE_OF_A_CORE = 0.0005
"""The most that sampling may cost, for each counter that ticks: of a promise of 0.001, what waking the thread, which
its own clock does not see, leaves."""
TICK_SHARE = 0.8944
"""Samples a little closer than the ticks: each tick is seen, and the samples drift through the counter's period, so
that some fall close before a tick and some close after it. Far from any simple fraction, so that none repeats."""
FIRST_SAMPLES = ((0.1, 0.004), (0.35, 0.01))
"""Until so many seconds after the start, sample every so many seconds: shows a counter's period at once."""
LEARNING_S = 4.0
"""So long samples may cost more than their share, to pin down the period."""
SLOWEST_S = 1.0
"""However much a sample costs, one is taken that often: a window's edges need ticks near them."""
GOLDEN = 0.6180339887498949
MEMORY_SAMPLES = 1_000_000
"""After so many samples the period doubles, so memory (16 bytes a sample) grows ever slower."""


class Pace:
    """Seconds from one sample to the next.

    Args:
        refresh_s: seconds between the ticks of the fastest counter; None where every read is current.
        period_s: a fixed period in seconds, or None to choose.
        counters: how many counters tick.
    """

    def __init__(self, refresh_s: float | None, period_s: float | None = None, counters: int = 1) -> None:
        self.refresh_s, self._period_s = refresh_s, period_s
        self._share = SHARE_OF_A_CORE * max(1, counters)
        self.closely = 0
        """How many want every tick seen, whatever that costs."""
        self._cost_s = 0.0
        self._beats = 0
        self._rest_s = 0.0

    @property
    def fixed(self) -> bool:
        """Whether samples keep their place on a regular grid."""
        return self._period_s is not None

    def spent(self, cpu_s: float) -> None:
        """Learn what a sample cost, in seconds of CPU time."""
        if self._cost_s == 0:
            self._cost_s = cpu_s
        # One slow sample says little: the machine was busy.
        self._cost_s += 0.05 * (min(cpu_s, 3 * self._cost_s) - self._cost_s)

    def next(self, elapsed_s: float, samples: int) -> float:
        """Seconds to the next sample.

        Args:
            elapsed_s: since the first sample.
            samples: kept so far.
        """
        slower = float(2 ** (samples // MEMORY_SAMPLES))
        if self._period_s is not None:
            return self._period_s * slower
        affordable_s = min(self._cost_s / self._share, SLOWEST_S)
        if self.refresh_s is None:
            # What happens in a short run is seen as finely as in a long one.
            return max(min(max(elapsed_s / 100, 0.1), 1.0), affordable_s) * slower
        for until_s, every_s in FIRST_SAMPLES:
            if elapsed_s < until_s:
                return every_s
        tick_s = TICK_SHARE * self.refresh_s
        if self.closely or affordable_s <= tick_s or elapsed_s < LEARNING_S:
            return tick_s * slower
        return self._pair(affordable_s) * slower

    def _pair(self, mean_s: float) -> float:
        """Of two samples so close that at most one tick lies between them, and then a rest."""
        self._beats += 1
        assert self.refresh_s is not None
        if self._beats % 2 == 0:
            return self._rest_s
        short_s = (0.3 + 0.4 * (self._beats * GOLDEN % 1)) * self.refresh_s
        self._rest_s = max(2 * mean_s - short_s, short_s)
        return short_s
