"""CPU time of this process and of the processes it started."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 2.0
"""Finding live children means reading a file per thread; their time since the last look is missing until the next."""
DEPTH = 4


class ProcessTime:
    """Seconds of CPU time used by this process, its live descendants and those that have ended. Never falls.

    Ended children count once this process has waited for them, as the kernel does it; live ones are looked up under
    `/proc` now and then. Where there is no `/proc`, live
    ones are missing until they end.

    Args:
        clock: seconds; replaced in tests.
        proc: where Linux shows processes.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, proc: Path = Path("/proc")) -> None:
        self._clock, self._proc = clock, proc
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        self._looked_s = -float("inf")
        self._ended_s = -1.0
        self._live_s = 0.0
        self._most_s = 0.0

    def __call__(self) -> float:
        """The sum in seconds."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended_s = usage.ru_utime + usage.ru_stime
        now_s = self._clock()
        # A child that ended moves from the live to the ended ones: both must be of the same moment.
        if now_s - self._looked_s >= LOOK_EVERY_S or ended_s != self._ended_s:
            self._looked_s, self._ended_s = now_s, ended_s
            self._live_s = sum(self._time_of(child, DEPTH) for child in self._children("self"))
        self._most_s = max(self._most_s, time.process_time() + ended_s + self._live_s)
        return self._most_s

    def _children(self, process: str) -> list[str]:
        found: list[str] = []
        try:
            for task in os.listdir(self._proc / process / "task"):
                found += (self._proc / process / "task" / task / "children").read_text().split()
        except OSError:  # ended meanwhile, or a kernel without that file
            pass
        return found

    def _time_of(self, process: str, depth: int) -> float:
        try:
            stat = (self._proc / process / "stat").read_text()
        except OSError:
            return 0.0
        # The name in brackets may hold spaces; user, system, and those of ended children follow it.
        fields = stat.rpartition(")")[2].split()
        own_s = sum(int(ticks) for ticks in fields[11:15]) * self._tick_s
        below = self._children(process) if depth else []
        return own_s + sum(self._time_of(child, depth - 1) for child in below)
