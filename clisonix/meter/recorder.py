"""Reading sensors and opening windows: what fills a trace."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from clisonix.meter.energy import Energy, best
from clisonix.meter.estimation.series import link
from clisonix.meter.following.live import DeviceNow, Live, watts_now
from clisonix.meter.reasons import Reason
from clisonix.meter.recording.trace import Trace
from clisonix.meter.sensors.sensor import Sensor, Unavailable
from clisonix.meter.spans import Span
from clisonix.meter.track import Track
from clisonix.meter.window import Window

ASLEEP_S = 0.5
"""A difference between the two system clocks that grows by more shows that the machine was suspended."""
ANSWER_S = 0.25
"""How long a request for figures waits for a driver's fresh sample."""


class Recorder:
    """Samples sensors when told to, and keeps windows. Safe to use from several threads.

    Args:
        sensors: the sensors to read.
        unavailable: sensors that could not be used.
        clock: the sensors' clock, seconds.
        awake: a clock that goes on while the machine sleeps, seconds; None where the system has none.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor],
        unavailable: Sequence[Unavailable] = (),
        clock: Callable[[], float] = time.perf_counter,
        awake: Callable[[], float] | None = None,
    ) -> None:
        self.tracks = [Track(sensor, clock) for sensor in sensors]
        self._ticking = [track for track in self.tracks if not track.info.exact_edges]
        self.on_demand: Callable[[], None] | None = None
        """Set while a thread of its own samples the sensors that may block: asks it for a sample now."""
        self._unavailable, self._clock, self._awake = list(unavailable), clock, awake
        self.listeners: list[Callable[[Window], None]] = []
        """Told of each window that closes, in the thread that closes it."""
        self._windows: list[Window] = []
        self._edge_s = -float("inf")
        self._process = os.getpid()
        self._ahead_s = awake() - clock() if awake else 0.0
        self._jumps: list[tuple[float, float]] = []
        self._clock_utc, self._clock_s = datetime.now(UTC).isoformat(timespec="seconds"), clock()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that measures; then nothing may be read here."""
        return os.getpid() != self._process

    def sample(self, last: bool = False) -> None:
        """Read every sensor once.

        Args:
            last: whether there will be no other sample.
        """
        if self._awake is not None:
            self._notice_sleep(self._awake)
        for track in self.tracks:
            track.read(last)

    def sample_counters(self) -> None:
        """Read the counters that tick: all that need be read often."""
        for track in self._ticking:
            track.read()

    def window(self, name: str, sync: bool = False) -> Window:
        """Measure what happens inside. See `Meter.window`."""
        return Window(self, name, sync)

    def opens(self, window: Window) -> None:
        """Begin a window now; called by the window."""
        if self.forked:
            window.start_s = self._clock()
            return
        # Sensors are read outside the window on both sides: the samples enclose it, and reading costs it nothing.
        self._sample_edge()
        window.start_s = self._edge_s = self._clock()
        self._windows.append(window)

    def closes(self, window: Window) -> None:
        """End a window now; called by the window."""
        if self.forked:
            return
        window.end_s = self._edge_s = self._clock()
        self._sample_edge()
        for listener in tuple(self.listeners):
            listener(window)

    def trace(self, fresh: bool = True) -> Trace:
        """A copy of everything so far; open windows reach to the last sample.

        Args:
            fresh: first wait for a sample from after the last window's edge.
        """
        if self.forked:
            reason = f"this process is a fork: the meter belongs to process {self._process}"
            return Trace([], [], [Unavailable("meter", reason, code=Reason.FORKED.value)])
        if fresh:
            self._freshen()
        # Windows first: a window that closes meanwhile is then simply still open in this copy.
        windows = [(w.name, w.start_s, w.end_s) for w in list(self._windows) if not w.cancelled]
        jumps = tuple(self._jumps)
        series = link([track.series(jumps) for track in self.tracks])
        # Driver-side buffers lag behind, and no window needs them.
        lagging = [s.info.source.endswith("-samples") for s in series]
        sampled = [
            s.t_s[-1] for s, lags in zip(series, lagging, strict=True) if len(s.t_s) and not s.lost and not lags
        ]
        now_s = float(min(sampled)) if sampled else self._clock()
        spans = []
        for name, start_s, end_s in windows:
            if start_s is None:
                continue
            # A window that has ended but whose last sample is still being taken counts as open for now.
            still = end_s is None or end_s > now_s
            spans.append(Span(name, start_s, max(start_s, now_s if end_s is None else min(end_s, now_s)), still))
        return Trace(series, spans, self._unavailable, self._clock_utc, self._clock_s, jumps=jumps)

    def so_far(self) -> Energy:
        """Energy of all devices since the first sample; costs next to nothing."""
        if self.forked:
            return self.trace().energy("")
        missing = [Energy.unknown(m.reason, device=m.device, code=m.code) for m in self._unavailable if m.device]
        return Energy.total(best([track.so_far() for track in self.tracks]) + missing)

    def live(self) -> Live:
        """Energy and power of each device now, from the samples that are there."""
        if self.forked:
            return Live([], self.trace().energy(""))
        readings = {id(reading): (reading, track) for track in self.tracks for reading in [track.so_far()]}
        now_s = self._clock()
        devices = [
            DeviceNow(reading, watts_now(track, now_s), track.seconds, None if track.lost is None else track.lost[1])
            for reading, track in (readings[id(kept)] for kept in best([known for known, _ in readings.values()]))
        ]
        missing = [Energy.unknown(m.reason, device=m.device, code=m.code) for m in self._unavailable if m.device]
        return Live(devices, Energy.total([device.energy for device in devices] + missing))

    def _sample_edge(self) -> None:
        if self.on_demand is None:
            self.sample()
            return
        # What a counter says at the edge is of its last tick; the sampling thread sees every tick anyway.
        for track in self.tracks:
            if not track.may_block:
                track.read()

    def _freshen(self) -> None:
        """Have a sample of every sensor from after the last edge, or wait for it in vain."""
        demand = self.on_demand
        if demand is None:
            return
        waiting = [t for t in self.tracks if t.may_block and t.asked_s < self._edge_s]
        deadline_s = time.perf_counter() + ANSWER_S
        while waiting and time.perf_counter() < deadline_s:
            demand()
            time.sleep(0.001)
            waiting = [track for track in waiting if track.asked_s < self._edge_s]

    def _notice_sleep(self, awake: Callable[[], float]) -> None:
        now_s = self._clock()
        ahead_s = awake() - now_s
        if ahead_s - self._ahead_s > ASLEEP_S:
            self._jumps.append((now_s, ahead_s - self._ahead_s))
        self._ahead_s = ahead_s
