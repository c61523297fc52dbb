"""Time contenders fairly on a machine that others use too: one round each in turn, in one process.

What is claimed is the ratio within a round, its median over the rounds and an interval for that median; absolute
seconds only say on what scale it was.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Work = Callable[[], Any]
QUIET_S = 0.1


def alternately(contenders: Mapping[str, Work], rounds: int = 11, at_least_s: float = 0.02) -> dict[str, list[float]]:
    """Seconds of one call of each contender, one figure for each round.

    Before a turn there is a pause and a call that is not counted: libraries with threads of their own leave these
    spinning for a while, which would be charged to whoever comes next.

    Args:
        contenders: by name; what they return is dropped at once.
        rounds: how often each has its turn. Every second round goes through them backwards, so that none always
            follows the same other.
        at_least_s: a turn repeats its call until it took that long, so that the clock does not matter.
    """
    calls = {}
    for name, work in contenders.items():
        work()  # first calls allocate and build
        start = time.perf_counter()
        work()
        calls[name] = max(1, round(at_least_s / max(time.perf_counter() - start, 1e-9)))
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else reversed(order):
            work = contenders[name]
            time.sleep(QUIET_S)
            work()
            start = time.perf_counter()
            for _ in range(calls[name]):
                work()
            spent[name].append((time.perf_counter() - start) / calls[name])
    return spent


def best_of(spent: Mapping[str, list[float]], names: list[str]) -> str:
    """The contender of `names` with the smallest median."""
    return min(names, key=lambda name: statistics.median(spent[name]))


def times_faster(spent: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, Any]:
    """How many times faster `ours` is than `theirs`: median ratio of the rounds, and its 95 % bootstrap interval."""
    ratios = np.array(spent[theirs]) / np.array(spent[ours])
    draws = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "ours_s": statistics.median(spent[ours]),
        "theirs_s": statistics.median(spent[theirs]),
        "against": theirs,
        "rounds": len(ratios),
    }
