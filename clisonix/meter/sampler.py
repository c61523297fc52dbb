"""The thread that samples while a meter runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from clisonix.meter.pace import Pace
from clisonix.meter.recorder import Recorder

LEARN_AFTER_S = 0.4
FLUSH_SHARE = 0.0005
"""The most that writing the trace while running may cost, as a share of a core."""


class Sampler:
    """Samples a recorder's sensors at their pace, and writes the trace now and then if asked.

    Args:
        recorder: what to sample.
        pace: when.
        flush: writes the trace; or None.
        flush_s: at least so many seconds between two calls of `flush`.
    """

    def __init__(
        self, recorder: Recorder, pace: Pace, flush: Callable[[], None] | None = None, flush_s: float = 10.0
    ) -> None:
        self._recorder, self._pace, self._flush, self._flush_s = recorder, pace, flush, flush_s
        self.flush_failure: str | None = None
        """Why the trace could not be written when that was last tried, or None."""
        self._stopping = False
        # A bare lock is the cheapest alarm clock: taken with a timeout to sleep, released to wake.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread = threading.Thread(target=self._run, name="clisonix-meter", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._recorder.on_demand = self.ring
        self._thread.start()

    def closely(self, wanted: bool) -> None:
        """From now on see every tick, whatever that costs, or no longer; calls are counted."""
        self._pace.closely += 1 if wanted else -1
        if wanted:
            self.ring()

    def ring(self) -> None:
        """Ask for a sample now."""
        with contextlib.suppress(RuntimeError):  # it has been rung already and not been heard yet
            self._bell.release()

    def stop(self, timeout_s: float) -> bool:
        """End; false if a driver that hangs keeps the thread from ending."""
        self._stopping = True
        self.ring()
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        if ended:
            self._recorder.on_demand = None
        return ended

    def _run(self) -> None:
        began_s = due_s = current_due_s = time.perf_counter()
        flush_due_s = began_s + self._flush_s
        learnt = self._pace.refresh_s is None
        spent_s = time.thread_time()
        while True:
            now_s = time.perf_counter()
            gap_s = self._pace.next(now_s - began_s, max((len(t) for t in self._recorder.tracks), default=0))
            # Counting from the last due time keeps the pace; a missed beat is skipped, not made up for.
            late_s = now_s - due_s
            due_s += gap_s * (max(1.0, late_s // gap_s + 1) if self._pace.fixed else 1.0)
            due_s = max(due_s, now_s)
            rung = self._bell.acquire(timeout=max(0.0, due_s - now_s))
            if self._stopping:
                return
            now_s = time.perf_counter()
            if rung and not self._pace.fixed:
                due_s = min(due_s, now_s)
            current = rung or self._pace.fixed or now_s >= current_due_s
            if current:
                current_due_s = now_s + min(max((now_s - began_s) / 100, 0.1), 1.0)
                self._recorder.sample()
            else:
                self._recorder.sample_counters()
            if not learnt and now_s - began_s > LEARN_AFTER_S:
                learnt = True
                self._learn()
                spent_s = time.thread_time()
                continue
            if self._flush is not None and now_s >= flush_due_s:
                flush_due_s = now_s + max(self._flush_s, self._write(self._flush) / FLUSH_SHARE)
                spent_s = time.thread_time()
                continue
            before_s, spent_s = spent_s, time.thread_time()
            self._pace.spent(spent_s - before_s)

    def _learn(self) -> None:
        """Take the pace from the counters' own period, now that the first samples show it."""
        periods = [
            track.series().timeline.ticks.period_s
            for track in self._recorder.tracks
            if not track.info.exact_edges and len(track) > 8
        ]
        if periods:
            # A counter faster than that need not be followed: its ticks are fine enough.
            self._pace.refresh_s = max(0.05, min(periods))

    def _write(self, flush: Callable[[], None]) -> float:
        before_s = time.thread_time()
        try:
            flush()
            self.flush_failure = None
        except Exception as error:  # a full disk must not end the sampling
            self.flush_failure = str(error)
        return time.thread_time() - before_s
