"""Time contenders on a GPU through CUDA graphs, one repetition of each in turn: used by liam_gpu.py.

`flushed`: one call, after the L2 cache was overwritten. `rotating`: calls with different weights that together exceed
the cache three times, per call, so that launches follow each other as in a model. `warm`: the same call again and
again, per call. `eager`: one call without a graph, with what Python and the launch cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Call = Callable[[], object]
MODES = ("flushed", "rotating", "warm", "eager")
WARM_CALLS = 20


class Contender(NamedTuple):
    """One way to compute something: a call for each copy of its weights, which all do the same work."""

    name: str
    calls: Sequence[Call]


class Clock:
    """Times contenders on one device."""

    def __init__(self, device: torch.device) -> None:
        self.l2_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self.flush = torch.empty(max(4 * self.l2_bytes, 1 << 28), dtype=torch.uint8, device=device)

    def copies(self, nbytes: int) -> int:
        """How many copies of weights of that size exceed the cache three times."""
        return 3 * self.l2_bytes // max(nbytes, 1) + 1

    def time(self, contenders: Sequence[Contender], mode: str, repeats: int) -> dict[str, list[float]]:
        """Seconds of a call of each contender, one figure a repetition, in turn and every second time backwards."""
        work = {contender.name: self._work(contender, mode) for contender in contenders}
        marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in work}
        for repetition in range(repeats):
            names = list(work)
            for name in names if repetition % 2 == 0 else reversed(names):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                if mode != "warm":
                    # Also keeps the device busy while the launches below are queued, except where those are timed.
                    self.flush.zero_()
                if mode == "eager":
                    torch.cuda.synchronize()
                start.record()
                work[name][0]()
                end.record()
                if mode == "eager":
                    torch.cuda.synchronize()
                marks[name].append((start, end))
        torch.cuda.synchronize()
        return {
            name: [start.elapsed_time(end) / 1e3 / work[name][1] for start, end in pairs]
            for name, pairs in marks.items()
        }

    def _work(self, contender: Contender, mode: str) -> tuple[Call, int]:
        """What one repetition runs, and how many calls that is."""
        if mode == "eager":
            contender.calls[0]()
            return contender.calls[0], 1
        calls = list(contender.calls) if mode == "rotating" else [contender.calls[0]]
        if mode == "warm":
            calls *= WARM_CALLS
        return captured(calls).replay, len(calls)


def captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """A graph of some calls, run before on a stream of their own, so that nothing is compiled during capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph
