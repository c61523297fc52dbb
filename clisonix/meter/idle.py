"""What a machine uses while it does nothing, and what the work therefore added."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from clisonix.meter.energy import Energy, best, modelled
from clisonix.meter.reasons import Flag, Reason
from clisonix.meter.recording.trace import Trace
from clisonix.meter.spans import Span

WINDOW = "idle"
DRIFT = 0.10


@dataclass(frozen=True)
class Split:
    """A window's energy, and its division.

    Attributes:
        total: everything the devices used.
        idle: what they would have used doing nothing for as long; missing where idle power was not measured.
        active: the difference. Its interval adds the widths of both, which is right whatever they have in common.
        idle_w: idle power by device in watts.
        drift: the largest change of a device's idle power between two idle measurements, as a share of it; None with
            fewer than two.
    """

    total: Energy
    idle: Energy
    active: Energy
    idle_w: dict[str, float]
    drift: float | None


def split(trace: Trace, name: str) -> Split:
    """Divide a window's energy by the idle power measured in windows named `idle` of the same trace.

    Only devices with an instrument have an idle power; a model of CPU time is active energy by its nature.

    Args:
        trace: samples and windows.
        name: of the window.
    """
    spans = trace.spans(name)
    seconds = trace.seconds(name)
    quiet = [span for span in trace.windows if span.name == WINDOW and span.seconds > 0]
    idle_parts, active_parts = [], []
    idle_w: dict[str, float] = {}
    drifts: list[float] = []
    parts = best(trace.readings_during(spans))
    for part in parts:
        if modelled(part.source):
            active_parts.append(part)
            continue
        idle = _idle_of(trace, part, quiet, seconds, idle_w, drifts)
        idle_parts.append(idle)
        active_parts.append(_difference(part, idle))
    if not idle_parts:
        idle_parts = [Energy.unknown("no device has an instrument that sees idle power", code=Reason.NO_SENSOR.value)]
    return Split(
        Energy.total(parts), Energy.total(idle_parts), Energy.total(active_parts), idle_w, max(drifts, default=None)
    )


def live_context() -> None:
    """Create a CUDA context on every visible device: a GPU without one idles several watts lower."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.zeros(1, device=f"cuda:{index}")


def _idle_of(
    trace: Trace, part: Energy, quiet: list[Span], seconds: float, idle_w: dict[str, float], drifts: list[float]
) -> Energy:
    def missing(reason: str, code: str) -> Energy:
        return Energy.unknown(
            reason, source=part.source, scope=part.scope, device=part.device, code=code, uuid=part.uuid
        )

    if part.joules is None:
        return missing(part.reason or "the sensor gave no value", part.code or Reason.UNKNOWN.value)
    if not quiet:
        return missing("idle power was not measured: call meter.idle() before and after the work", Reason.NO_WINDOW)
    found: list[tuple[float, float, float]] = []
    for span in quiet:
        here = next(
            (r for r in trace.readings_during([span]) if (r.device, r.source) == (part.device, part.source)), None
        )
        if here is not None and here.joules is not None and here.low is not None and here.high is not None:
            found.append((here.joules / span.seconds, here.low / span.seconds, here.high / span.seconds))
    if not found:
        return missing("the sensor gave no value while idle power was measured", Reason.NO_SAMPLE)
    power_w = sum(one[0] for one in found) / len(found)
    low_w, high_w = min(one[1] for one in found), max(one[2] for one in found)
    idle_w[part.device] = power_w
    flags = part.flags
    if len(found) > 1 and power_w > 0:
        drifts.append((max(one[0] for one in found) - min(one[0] for one in found)) / power_w)
        if drifts[-1] > DRIFT:
            flags = (*flags, Flag.IDLE_DRIFT.value)
    return replace(
        part, joules=power_w * seconds, low=low_w * seconds, high=high_w * seconds, at_least=None, at_most=None,
        flags=flags, coverage=None, detail=f"idle power of {power_w:.1f} W, measured {len(found)} times",
    )  # fmt: skip


def _difference(total: Energy, idle: Energy) -> Energy:
    if total.joules is None or idle.joules is None:
        return idle
    assert total.low is not None
    assert total.high is not None
    assert idle.low is not None
    assert idle.high is not None
    return replace(
        total, joules=total.joules - idle.joules, low=total.low - idle.high, high=total.high - idle.low,
        at_least=None, at_most=None, flags=idle.flags,
        detail=f"{total.detail}, less {idle.detail}",
    )  # fmt: skip
