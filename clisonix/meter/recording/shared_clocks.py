"""Which traces share a clock, and so a machine since it was started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from clisonix.meter.recording.trace import Trace

SAME_CLOCK_S = 2.5
"""Wall clocks are recorded to the second; traces whose offsets agree so far are taken to share one clock."""


@dataclass(frozen=True)
class Source:
    """One trace and where it comes from.

    Attributes:
        trace: the samples and windows.
        key: SHA-256 of its file: what makes it the same trace.
        label: of the process, for people, e.g. `rank-3`.
        node: see `conditions.node`; None where it was not recorded.
    """

    trace: Trace
    key: str
    label: str = ""
    node: str | None = None

    @property
    def offset_s(self) -> float:
        """Wall clock minus the trace's own clock, in seconds; 0 where it is not known."""
        try:
            return datetime.fromisoformat(self.trace.clock_utc).timestamp() - self.trace.clock_s
        except ValueError:
            return 0.0

    @property
    def uuids(self) -> set[str]:
        """The GPUs it watched."""
        return {series.uuid for series in self.trace.series if series.uuid}


@dataclass(frozen=True)
class Machine:
    """The traces that share one monotonic clock, and so one machine since it was started."""

    name: str
    sources: list[Source]

    @property
    def offset_s(self) -> float:
        """Wall clock minus the machine's clock; from the trace with the smallest key."""
        return self.sources[0].offset_s


def machines(sources: Sequence[Source]) -> list[Machine]:
    """Group traces by machine.

    By the node they recorded; those of older records, which recorded none, by the offset of their clock, and with
    a node whose clock has that offset if they watched one of its GPUs.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        if source.node is not None:
            groups.setdefault(source.node, []).append(source)
    unnamed: list[list[Source]] = []
    for source in sorted((s for s in sources if s.node is None), key=lambda s: (s.offset_s, s.key)):
        if unnamed and source.offset_s - unnamed[-1][-1].offset_s <= SAME_CLOCK_S:
            unnamed[-1].append(source)
        else:
            unnamed.append([source])
    for cluster in unnamed:
        uuids = {uuid for source in cluster for uuid in source.uuids}
        homes = [
            node
            for node, members in sorted(groups.items())
            if any(s.uuids & uuids and abs(s.offset_s - cluster[0].offset_s) <= SAME_CLOCK_S for s in members)
        ]
        name = homes[0] if homes else min(source.key for source in cluster)
        groups.setdefault(name, []).extend(cluster)
    return [Machine(name, sorted(members, key=lambda s: s.key)) for name, members in sorted(groups.items())]
