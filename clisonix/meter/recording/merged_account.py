"""Several traces of one job, from ranks and nodes, as one account: every physical device once.

All figures are a function of the *set* of traces, so the order of merging cannot matter and merging a trace twice
changes nothing. A GPU is known by its UUID; a CPU package by its machine. Where several processes watched one
device, its windows are united in time, each stretch is read from the trace that knows it best, and traces that
contradict each other are reported. What is modelled per process adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from clisonix.meter.energy import Energy, best
from clisonix.meter.estimation.series import Series, cross_check
from clisonix.meter.recording.shared_clocks import Machine, Source, machines
from clisonix.meter.spans import Span, seconds_of, union


@dataclass(frozen=True)
class Device:
    """Every series that watched one device."""

    label: str
    watched: list[tuple[Source, Series]]

    def energy(self, name: str) -> Energy | None:
        """Energy during all windows of a name in the processes that saw it; None where none opened it."""
        spans = union(span for source, _ in self.watched for span in source.trace.spans(name))
        spans = [span for span in spans if span.seconds > 0]
        if not spans:
            return None
        if len(self.watched) == 1:
            return replace(self.watched[0][1].energy(spans), device=self.label)
        chosen: dict[int, list[Span]] = {}
        parts: list[Energy] = []
        for span in spans:
            for which, stretch in self._cover(span):
                if which is None:
                    parts.append(self._unknown("no trace watched it the whole time"))
                else:
                    chosen.setdefault(which, []).append(stretch)
        parts = [self.watched[which][1].energy(stretches) for which, stretches in sorted(chosen.items())] + parts
        total = Energy.total(replace(part, device=self.label) for part in parts)
        conflicts = self.conflicts
        if not conflicts or total.joules is None:
            return total
        every = [total, *(series.energy(spans) for _, series in self.watched)]
        reason = "; ".join([*([total.reason] if total.reason else []), *conflicts])
        return replace(
            total,
            low=_extreme(min, [e.low for e in every]),
            high=_extreme(max, [e.high for e in every]),
            at_least=_extreme(min, [e.at_least for e in every]),
            at_most=_extreme(max, [e.at_most for e in every]),
            reason=reason,
        )

    @cached_property
    def conflicts(self) -> list[str]:
        """Sentences on traces that contradict each other about the time both watched."""
        found = []
        for i, (first, one) in enumerate(self.watched):
            for second, other in self.watched[i + 1 :]:
                if not len(one.t_s) or not len(other.t_s):
                    continue
                start, end = max(one.t_s[0], other.t_s[0]), min(one.t_s[-1], other.t_s[-1])
                if end <= start:
                    continue
                a, b = (series.energy([Span("", float(start), float(end))]) for series in (one, other))
                if _above(a, b) or _above(b, a):
                    found.append(
                        f"{self.label}: the traces {first.key[:8]} and {second.key[:8]} contradict each other "
                        f"({a.joules:.6g} J and {b.joules:.6g} J in the same {end - start:.3g} s)"
                    )
        return found

    def _cover(self, span: Span) -> Iterable[tuple[int | None, Span]]:
        """Cut a span so that each piece lies within one series, which is given by its index."""
        at = span.start_s
        ends = [(float(s.t_s[0]), float(s.t_s[-1])) if len(s.t_s) else (0.0, 0.0) for _, s in self.watched]
        while at < span.end_s:
            reach = {i: end for i, (start, end) in enumerate(ends) if start <= at < end}
            if not reach:
                later = min((start for start, end in ends if start > at and end > start), default=span.end_s)
                yield None, Span(span.name, at, min(later, span.end_s))
                at = later
                continue
            rest = Span(span.name, at, span.end_s)
            whole = [i for i, end in reach.items() if end >= span.end_s]
            if whole:
                yield min(whole, key=lambda i: (_width(self.watched[i][1].energy([rest])), i)), rest
                return
            furthest = max(reach, key=lambda i: (reach[i], -i))
            yield furthest, Span(span.name, at, reach[furthest])
            at = reach[furthest]

    def _unknown(self, reason: str) -> Energy:
        info = self.watched[0][1].info
        return Energy.unknown(reason, source=info.source, scope=info.scope, device=self.label)


class Merged:
    """The account of a set of traces; answers as a `Trace` does.

    Args:
        sources: in any order, the same one any number of times.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        unique = {source.key: source for source in sources}
        self.machines = machines([unique[key] for key in sorted(unique)])
        self._devices = [(machine, self._devices_of(machine)) for machine in self.machines]

    def names(self) -> list[str]:
        """The window names of all traces."""
        traces = [source.trace for machine in self.machines for source in machine.sources]
        return list(dict.fromkeys(name for trace in traces for name in trace.names()))

    def seconds(self, name: str) -> float:
        """Time during which at least one process was in a window of that name, in seconds."""
        per_machine = [
            (machine.offset_s, union(span for source in machine.sources for span in source.trace.spans(name)))
            for machine in self.machines
        ]
        per_machine = [(offset, spans) for offset, spans in per_machine if spans]
        if len(per_machine) == 1:
            return seconds_of(per_machine[0][1])
        # Machines share no monotonic clock: their wall clocks say how they overlap.
        origin = min((offset for offset, _ in per_machine), default=0.0)
        return seconds_of(
            union(
                replace(span, start_s=span.start_s + (offset - origin), end_s=span.end_s + (offset - origin))
                for offset, spans in per_machine
                for span in spans
            )
        )

    def readings(self, name: str) -> list[Energy]:
        """One reading per device and way of measuring, and one missing reading per device without a sensor."""
        return _joined(
            reading for machine, devices in self._devices for reading in self._read(machine, devices, name)
        )

    def energy(self, name: str) -> Energy:
        """The best reading of each device, summed."""
        found = [r for machine, devices in self._devices for r in best(self._read(machine, devices, name))]
        return Energy.total(_joined(found))

    @property
    def conflicts(self) -> list[str]:
        """Sentences on traces that contradict each other."""
        return sorted({text for _, devices in self._devices for device in devices for text in device.conflicts})

    @property
    def gpus(self) -> dict[str, str]:
        """UUID to model of every GPU that was watched."""
        every = [series for m in self.machines for source in m.sources for series in source.trace.series]
        found = {s.uuid: str(s.info.parameters.get("model", "GPU")) for s in every if s.uuid}
        return dict(sorted(found.items()))

    def watched(self) -> list[tuple[str, Series, float]]:
        """Each device, the series that watched it longest, and what to add to its times to get wall-clock seconds."""
        return [
            (device.label, max((s for _, s in device.watched), key=lambda s: s.t_s[-1] - s.t_s[0]), machine.offset_s)
            for machine, devices in self._devices
            for device in devices
            if all(len(series.t_s) for _, series in device.watched)
        ]

    def machine_of(self, key: str) -> str:
        """The name of the machine of a trace."""
        return next(m.name for m in self.machines for source in m.sources if source.key == key)

    def _read(self, machine: Machine, devices: list[Device], name: str) -> list[Energy]:
        opened = [source for source in machine.sources if source.trace.spans(name)]
        found = [reading for device in devices if (reading := device.energy(name)) is not None]
        spans = union(span for source in opened for span in source.trace.spans(name))
        found = cross_check(found, seconds_of(spans))
        watched = {series.info.device for source in machine.sources for series in source.trace.series}
        missing = {
            (gone.device or gone.sensor, gone.reason)
            for source in opened
            for gone in source.trace.unavailable
            if (gone.device and gone.device not in watched) or not source.trace.series
        }
        return found + [Energy.unknown(reason, device=device) for device, reason in sorted(missing)]

    def _devices_of(self, machine: Machine) -> list[Device]:
        groups: dict[tuple[str, str], list[tuple[Source, Series]]] = {}
        for source in machine.sources:
            for series in source.trace.series:
                label = self._label(machine, source, series)
                groups.setdefault((label, series.info.source), []).append((source, series))
        return [Device(label, watched) for (label, _), watched in sorted(groups.items(), key=lambda item: item[0])]

    def _label(self, machine: Machine, source: Source, series: Series) -> str:
        info = series.info
        if series.uuid:
            return f"gpu:{series.uuid}"
        if "this process" in info.scope:
            # Two ranks may have been given one name by mistake; the key keeps them apart.
            return f"{info.device}:{source.label or 'process'}-{source.key[:6]}"
        return info.device if len(self.machines) == 1 else f"{info.device}@{machine.name[:6]}"


def _joined(readings: Iterable[Energy]) -> list[Energy]:
    """One reading per device and source: a device that a job used after a restart of its machine adds up."""
    parts: dict[tuple[str, str], list[Energy]] = {}
    for reading in readings:
        parts.setdefault((reading.device, reading.source), []).append(reading)
    return [part[0] if len(part) == 1 else Energy.total(part) for part in parts.values()]


def _above(one: Energy, other: Energy) -> bool:
    """Whether one figure is certainly larger than the other."""
    least = one.low if one.at_least is None else one.at_least
    most = other.high if other.at_most is None else other.at_most
    return least is not None and most is not None and least > most * (1 + 1e-9)


def _extreme(pick: Callable[[list[float]], float], values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return pick(known) if known else None


def _width(energy: Energy) -> float:
    return float("inf") if energy.low is None or energy.high is None else energy.high - energy.low
