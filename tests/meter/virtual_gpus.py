"""GPUs of the stand-in library, measured in virtual time by the real binding, sensors, pace and recorder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fake_library import Truth, binding, configure

from clisonix.meter import Energy, NvmlSamples, Recorder, Series, Span, Trace, detect_nvml
from clisonix.meter.pace import Pace

BEGAN_S = 1000.0
SAMPLE_COST_S = 0.00014
"""Of CPU time, as `scripts/bench/meter.py --only cost` finds it with one GPU of the stand-in."""


@dataclass(frozen=True)
class Played:
    """What was recorded of some GPUs, and what they truly used."""

    trace: Trace
    truth: Callable[[int, float, float], float]

    def counter(self, gpu: int) -> Series:
        return next(s for s in self.trace.series if s.info.name == f"nvml:{gpu}")

    def energy(self, gpu: int, start_s: float, end_s: float) -> Energy:
        return self.counter(gpu).energy([Span("w", start_s, end_s)])


def sensors_of(nvml: Any, truth: Truth, samples: bool = True) -> list[Any]:
    counters, _ = detect_nvml(None, nvml, truth.now)
    if not samples:
        return list(counters)
    return [*counters, *(NvmlSamples(c, nvml, c._handle, truth.now, truth.wall) for c in counters)]


def play(
    library: Path, folder: Path, gpus: list[str], seconds: float, *, seed: int = 0, samples: bool = True,
    late_s: float = 0.0003, very_late: tuple[float, float] = (0.02, 0.03), period_s: float | None = None,
    cost_s: float = 0.0,
) -> Played:  # fmt: skip
    """Let time pass with the sampling thread's pace, each sample a little late and some very late.

    `very_late` is the share of those and how many seconds they are late at most. `cost_s` is the CPU time of a
    sample: what samples may cost in all decides how often one is taken, as it does outside of virtual time.
    """
    rng = np.random.default_rng(seed)
    config = configure(folder, gpus, BEGAN_S - 10.0)
    with binding(library, config) as (nvml, truth):
        truth.set(BEGAN_S)
        recorder = Recorder(sensors_of(nvml, truth, samples), clock=truth.now)
        recorder.sample()
        pace, now_s, due_s, count = Pace(0.1, period_s), BEGAN_S, BEGAN_S, 1
        while now_s < BEGAN_S + seconds:
            due_s = max(due_s + pace.next(now_s - BEGAN_S, count), now_s)
            now_s = (
                due_s
                + float(rng.exponential(late_s))
                + (rng.random() < very_late[0]) * float(rng.uniform(0, very_late[1]))
            )
            truth.set(now_s)
            count += 1
            pace.spent(cost_s)
            if count % 10 == 0:
                recorder.sample()
            else:
                recorder.sample_counters()
        recorder.sample(last=True)
        # The library stays open, with its loads, as long as `truth` does.
        return Played(recorder.trace(), truth.joules)
