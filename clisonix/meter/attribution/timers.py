"""Marks along a stream of work, and the time between them: CPU time, or CUDA events."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, Protocol


class Timer(Protocol):
    """Marks moments; the time between them is known at the end."""

    unit: str
    """What the seconds are of: `CPU time` or `GPU time`."""

    def mark(self) -> Any:  # noqa: ANN401 - whatever stands for a moment until the end
        """Mark this moment."""
        ...

    def seconds(self, marks: list[Any]) -> list[float]:
        """Seconds from the first mark to each, once all work is done."""
        ...

    def moments(self, marks: list[Any]) -> list[float] | None:
        """Each mark on `time.perf_counter`; None where the marks are of CPU time."""
        ...


class CpuTimer:
    """CPU time of the thread that runs the model.

    Not that of the whole process: between parallel regions the helper threads of OpenMP spin for some milliseconds,
    and would charge a large module's afterglow to the small one that follows.
    """

    unit = "CPU time"

    def mark(self) -> tuple[int, float]:
        """See `Timer.mark`."""
        return threading.get_ident(), time.thread_time()

    def seconds(self, marks: list[tuple[int, float]]) -> list[float]:
        """See `Timer.seconds`. Between marks of different threads no time is known to pass."""
        found = [0.0]
        for (thread, before_s), (other, after_s) in itertools.pairwise(marks):
            found.append(found[-1] + (after_s - before_s if thread == other else 0.0))
        return found

    def moments(self, marks: list[tuple[int, float]]) -> None:
        """See `Timer.moments`."""


class CudaTimer:
    """Events on the current CUDA stream. The device is synchronised once at the start and once at the end."""

    unit = "GPU time"

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        torch.cuda.synchronize()
        self._base = self.mark()
        torch.cuda.synchronize()
        self._base_s = time.perf_counter()

    def mark(self) -> Any:  # noqa: ANN401
        """See `Timer.mark`."""
        event = self._cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, marks: list[Any]) -> list[float]:
        """See `Timer.seconds`."""
        self._cuda.synchronize()
        return [marks[0].elapsed_time(mark) / 1000.0 for mark in marks]

    def moments(self, marks: list[Any]) -> list[float]:
        """See `Timer.moments`."""
        self._cuda.synchronize()
        return [self._base_s + self._base.elapsed_time(mark) / 1000.0 for mark in marks]
