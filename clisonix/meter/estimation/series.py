"""The samples of one sensor, and the energy that follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from clisonix.meter.energy import Energy, modelled
from clisonix.meter.estimation.estimate import estimate
from clisonix.meter.estimation.hard_bounds import Counter, Floats, Joules
from clisonix.meter.estimation.roughness import Samples
from clisonix.meter.estimation.timeline import Timeline
from clisonix.meter.estimation.uncounted import stall_s
from clisonix.meter.reasons import Flag, Reason
from clisonix.meter.sensors.sensor import SensorInfo
from clisonix.meter.spans import Span, seconds_of

METHOD = 2
"""How figures follow from samples. 1: the interval is the hard bounds. 2: a 95 % interval beside the hard bounds."""
AGREE = 0.03
AGREE_FROM_S = 3.0
"""Shorter windows say too little about whether two sensors agree: power samples may lag by a second."""


@dataclass(frozen=True)
class Series:
    """The samples of one sensor.

    Attributes:
        info: the sensor's properties.
        t_s: times on the trace's clock, seconds, `(samples,)`.
        joules: raw counter values, `(samples,)`.
        lost: why the sensor gave no value when it was last asked; None when it did.
        lost_code: the `Reason` that goes with it.
        method: see `METHOD`.
        jumps: when the machine woke from sleep, and how many seconds the clock had missed.
        samples: power samples of the same device from another sensor, or None.
    """

    info: SensorInfo
    t_s: Floats
    joules: Floats
    lost: str | None = None
    lost_code: str | None = None
    method: int = METHOD
    jumps: tuple[tuple[float, float], ...] = ()
    samples: Samples | None = None

    @cached_property
    def counter(self) -> Counter:
        """The hard bounds; needs at least one sample."""
        info = self.info
        return Counter(self.t_s, self.joules, info.max_power_w, info.exact_edges, info.refresh_s, self.method)

    @cached_property
    def timeline(self) -> Timeline:
        """Energy over time, of a counter that ticks; needs at least one sample."""
        return Timeline(self.t_s, self.joules, self.info.refresh_s or 0.1, self.samples)

    @property
    def uuid(self) -> str | None:
        """The device's UUID, or None where it has none."""
        found = self.info.parameters.get("uuid")
        return found if isinstance(found, str) else None

    def energy(self, spans: list[Span]) -> Energy:
        """Energy used during disjoint spans of time, in order."""
        if not spans:
            return self._unknown("no window of that name was opened", Reason.NO_WINDOW)
        # One that was opened a moment ago must not hide what the others used.
        spans = [span for span in spans if span.end_s > span.start_s]
        if not spans:
            return self._unknown("no sample was taken since the window was opened", Reason.NO_SAMPLE)
        lost = self.lost_code or Reason.DRIVER_ERROR
        if not len(self.t_s):
            return self._unknown(self.lost or "the sensor gave no sample", lost if self.lost else Reason.NO_SAMPLE)
        if spans[0].start_s < self.t_s[0]:
            return self._unknown("the window began before the sensor's first sample", Reason.NOT_COVERED)
        if spans[-1].end_s > self.t_s[-1]:
            why = self.lost or "it gave no sample after the window"
            return self._unknown(f"the sensor was lost: {why}", lost if self.lost else Reason.NO_SAMPLE)
        if self.method == 1:
            return self._bounded(spans)
        if self.info.source.endswith("-samples"):
            return self._sampled(spans)
        return self._direct(spans) if self.info.exact_edges else self._ticking(spans)

    def power_w(self, edges_s: Floats) -> Floats:
        """Mean power between consecutive times in watts: `(n,)` to `(n - 1,)`."""
        return self.counter.power_w(edges_s)

    def _between(self, spans: list[Span]) -> Joules:
        """Hard bounds of the spans together; coverage weighted by their lengths."""
        found = [self.counter.between(span.start_s, span.end_s) for span in spans]
        covered_s = sum(part.coverage * span.seconds for part, span in zip(found, spans, strict=True))
        central, low, high = (float(sum(getattr(part, of) for part in found)) for of in ("central", "low", "high"))
        return Joules(central, low, high, float(covered_s / seconds_of(spans)))

    def _bounded(self, spans: list[Span]) -> Energy:
        found = self._between(spans)
        low, high = self._of_model(found.low, found.high)
        exact = self.info.exact_edges
        return Energy(
            found.central, low, high, self.info.source, self.info.scope, self.info.device,
            refresh_s=None if exact else self.counter.tick_gap_s or self.info.refresh_s,
            coverage=None if exact else found.coverage,
            detail=self._detail,
        )  # fmt: skip

    def _direct(self, spans: list[Span]) -> Energy:
        """Of a sensor whose reads are current, up to its own grain at each edge."""
        found = self._between(spans)
        low, high = self._of_model(found.low, found.high)
        grain_s = self.info.refresh_s
        if grain_s is not None:
            off_j = found.central / seconds_of(spans) * grain_s * math.sqrt(len(spans))
            low, high = max(0.0, low - off_j), high + off_j
        return self._known(found.central, low, high, self._flags(spans))

    def _sampled(self, spans: list[Span]) -> Energy:
        """Of integrated power samples: their accuracy, and what a lag of the samples may move across the edges."""
        found = self._between(spans)
        lag_s, accuracy = float(self.info.parameters["lag_s"]), float(self.info.parameters["accuracy"])
        moved_j = 0.0
        for moment in (edge for span in spans for edge in (span.start_s, span.end_s)):
            near = slice(*np.searchsorted(self.t_s, (moment - lag_s, moment + lag_s)))
            power_w = np.diff(self.joules[near]) / np.maximum(np.diff(self.t_s[near]), 1e-6)
            moved_j += lag_s / 2 * float(np.ptp(power_w)) if len(power_w) else 0.0
        off_j = accuracy * found.central + moved_j
        return self._known(found.central, max(0.0, found.central - off_j), found.central + off_j, self._flags(spans))

    def _ticking(self, spans: list[Span]) -> Energy:
        timeline = self.timeline
        still_s = stall_s(timeline.ticks.period_s)
        last_tick_s = float(timeline.ticks.latest_s[-1])
        if self.t_s[-1] - last_tick_s > still_s and spans[-1].end_s > last_tick_s + still_s:
            return self._unknown(
                f"the counter has stood still for {self.t_s[-1] - last_tick_s:.1f} s: it is stuck", Reason.STUCK
            )
        starts, ends = np.array([span.start_s for span in spans]), np.array([span.end_s for span in spans])
        found = estimate(timeline, starts, ends)
        if found is None:
            return self._unknown("the counter did not move often enough to tell", Reason.TOO_SHORT)
        bounds = self._between(spans)
        slept_s = sum(seconds for at_s, seconds in self.jumps if any(s.start_s < at_s <= s.end_s for s in spans))
        stalled_s = sum(
            float(timeline.ticks.latest_s[missed.tick] - timeline.ticks.earliest_s[missed.tick - 1])
            for missed in timeline.missed
            if missed.stuck and Flag.STUCK in found.flags
        )
        # Where the load breaks its power limit the limit bounds nothing: what was counted stands.
        at_least = min(bounds.low, found.joules)
        at_most = max(bounds.high, found.joules) + self.info.max_power_w * (slept_s + stalled_s)
        reached_w = bounds.low / seconds_of(spans)
        flags = [*found.flags, *self._flags(spans)]
        if reached_w > 1.05 * self.info.max_power_w and not slept_s:
            flags.append(Flag.SUSTAINED_OVER_LIMIT.value)
        known = self._known(
            found.joules, max(found.low, at_least, 0.0), min(found.high, at_most), tuple(dict.fromkeys(flags))
        )
        return replace(
            known, refresh_s=timeline.ticks.period_s, coverage=bounds.coverage, at_least=at_least, at_most=at_most
        )

    def _flags(self, spans: list[Span]) -> tuple[str, ...]:
        slept = any(span.start_s < at_s <= span.end_s for at_s, _ in self.jumps for span in spans)
        return (Flag.CLOCK_JUMP.value,) if slept else ()

    def _of_model(self, low: float, high: float) -> tuple[float, float]:
        if not modelled(self.info.source):
            return low, high
        at = self.info.parameters
        return low * at["low"] / at["watts"], high * at["high"] / at["watts"]

    @property
    def _detail(self) -> str:
        return str(self.info.parameters.get("how", self.info.source))

    def _known(self, joules: float, low: float, high: float, flags: tuple[str, ...]) -> Energy:
        info = self.info
        return Energy(
            joules, low, high, info.source, info.scope, info.device, detail=self._detail, uuid=self.uuid, flags=flags
        )

    def _unknown(self, reason: str, code: str) -> Energy:
        info = self.info
        known = {"code": str(code), "uuid": self.uuid} if self.method > 1 else {}
        return Energy.unknown(reason, source=info.source, scope=info.scope, device=info.device, **known)


def link(series: Sequence[Series]) -> list[Series]:
    """Give each ticking counter the power samples of its own device."""
    sampled = {
        one.info.device: Samples(one.t_s[1:], np.diff(one.joules) / np.maximum(np.diff(one.t_s), 1e-6))
        for one in series
        if one.info.source.endswith("-samples") and len(one.t_s) > 1
    }
    return [
        replace(one, samples=sampled.get(one.info.device))
        if one.method > 1 and not one.info.exact_edges and one.info.device in sampled
        else one
        for one in series
    ]


def cross_check(readings: Sequence[Energy], seconds: float) -> list[Energy]:
    """Flag the counter and the integrated power of one device where they differ by more than 3 %."""
    if seconds < AGREE_FROM_S:
        return list(readings)
    counted = {r.device: r.joules for r in readings if r.source.endswith("-counter") and r.joules is not None}
    sampled = {r.device: r.joules for r in readings if r.source.endswith("-samples") and r.joules is not None}
    apart = {
        device
        for device in counted.keys() & sampled.keys()
        if abs(counted[device] - sampled[device]) > AGREE * max(counted[device], sampled[device])
    }
    return [
        replace(r, flags=(*r.flags, Flag.DISAGREE.value))
        if r.device in apart and r.source.endswith(("-counter", "-samples"))
        else r
        for r in readings
    ]
