"""Chunks of several live streams become windows, in event time.

The model is that of Akidau et al., The Dataflow Model, VLDB 2015: a watermark says up to which time nothing is
expected any more, and a window is made when the watermark has passed its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.lane import Lane, LiveStream
from clisonix.fabric.source import Chunk
from clisonix.fabric.window import Window

_SLACK = 1e-9  # seconds; window edges are sums of decimal fractions


@dataclass
class Counts:
    """What became of a stream's samples.

    Attributes:
        received: samples that arrived.
        late: of these, those that came after their window was made; they went to the side channel.
        idle: how often the stream was no longer waited for.
    """

    received: int = 0
    late: int = 0
    idle: int = 0


class Weaver:
    """Turns chunks of several streams into windows. Knows no wall clock and no threads.

    The watermark is the least of the newest stamps of all streams that are neither idle nor closed, each minus its
    jitter, minus `lateness_s`. Before every such stream has sent something there is none. What comes out is the
    same, byte for byte, for every order of arrival in which no chunk begins before the watermark at its arrival.

    Example:
        >>>         >>> weaver = Weaver({"eeg": LiveStream(2, 100.0)}, window=1.0)
        >>> times = np.arange(250) / 100
        >>> weaver.push(Chunk("eeg", np.ones((2, 250), np.float32), times, 0))
        >>> [float(w["t0_s"]) for w in weaver.windows()]
        [0.0, 1.0]
    """

    def __init__(
        self,
        streams: Mapping[str, LiveStream],
        *,
        window: float,
        hop: float | None = None,
        lateness_s: float = 0.0,
        start_s: float | None = None,
        late: Callable[[Chunk], None] | None = None,
    ) -> None:
        """Start before the first chunk.

        Args:
            streams: what each stream will send.
            window: length in seconds.
            hop: step between windows in seconds; None takes `window`.
            lateness_s: how much out of order chunks may come.
            start_s: start of the first window; None takes the oldest sample there is when the first window is due.
            late: called with what comes too late.

        Raises:
            ClisonixError: no streams, or lengths that make no sense.
        """
        if not streams:
            raise ClisonixError("the weaver was given no streams")
        self.window_s, self.hop_s = float(window), float(window if hop is None else hop)
        for name, value in (("window", self.window_s), ("hop", self.hop_s)):
            if not (math.isfinite(value) and value > 0):
                raise ClisonixError(f"{name} is {value} s, expected a positive number of seconds")
        if not (math.isfinite(lateness_s) and lateness_s >= 0):
            raise ClisonixError(f"lateness_s is {lateness_s}, expected a number of seconds that is not negative")
        for name, spec in streams.items():
            if not (spec.channels > 0 and math.isfinite(spec.rate_hz) and spec.rate_hz > 0 and spec.jitter_s >= 0):
                raise ClisonixError(
                    f"{name} cannot be {spec}: channels and rate are positive, jitter is not negative"
                )
            if round(self.window_s * spec.rate_hz) < 1:
                raise ClisonixError(f"a window of {window:g} s holds no sample of {name} at {spec.rate_hz:g} Hz")
        self.streams = dict(streams)
        self.lateness_s = float(lateness_s)
        # Jitter may move samples over the edge of a window, so it is made that much later.
        self.guard_s = max(spec.jitter_s for spec in streams.values())
        self.counts = {name: Counts() for name in streams}
        self.lanes = {name: Lane(name, spec) for name, spec in streams.items()}
        self._start_s, self._late = start_s, late
        self._idle: set[str] = set()
        self._silent: set[str] = set()  # idle, and not even sending what is late
        self._closed: set[str] = set()
        self._number = 0
        self._taken_until_s = -math.inf

    @property
    def watermark_s(self) -> float:
        """Nothing older is expected; infinite when all streams are closed, minus infinite when nothing is known."""
        if len(self._closed) == len(self.lanes):
            return math.inf
        active = [lane for name, lane in self.lanes.items() if name not in self._closed | self._idle]
        if self.lanes.keys() <= self._closed | self._silent:
            # Nobody is waited for, so whole windows of what was sent are not held back; the rest may still go on.
            return max(lane.end_s for lane in self.lanes.values()) + self.guard_s + _SLACK
        return min((lane.frontier_s - lane.spec.jitter_s for lane in active), default=-math.inf) - self.lateness_s

    @property
    def floor_s(self) -> float:
        """Start of the next window: what is older is forgotten."""
        if self._start_s is None:
            return min(lane.earliest_s for lane in self.lanes.values())
        return self._start_s + self._number * self.hop_s

    @property
    def nbytes(self) -> int:
        """Bytes of the samples and stamps that are held."""
        return sum(lane.nbytes for lane in self.lanes.values())

    def push(self, chunk: Chunk) -> None:
        """A chunk arrived.

        Raises:
            ClisonixError: an unknown stream, or a chunk that is not what its stream promised.
        """
        lane = self.lanes.get(chunk.stream)
        if lane is None:
            raise ClisonixError(f"there is no stream {chunk.stream!r}{nearest(chunk.stream, self.lanes)}")
        late = lane.put(chunk, self._taken_until_s)
        self._silent.discard(chunk.stream)
        count = self.counts[chunk.stream]
        count.received += len(chunk.times_s)
        if late is None or len(late.times_s) < len(chunk.times_s):
            # Something that only sends what is late must not hold the others back.
            self._idle.discard(chunk.stream)
        if late is not None:
            count.late += len(late.times_s)
            if self._late is not None:
                self._late(late)

    def idle(self, stream: str) -> None:
        """Wait for this stream no longer, until it sends again; its cells are masked."""
        self._silent.add(stream)
        if stream not in self._idle:
            self._idle.add(stream)
            self.counts[stream].idle += 1

    def close(self, stream: str) -> None:
        """This stream has ended."""
        self._closed.add(stream)

    def windows(self) -> Iterator[Window]:
        """The windows whose end the watermark has passed; one in which nothing at all was measured is left out."""
        while (due := self._due()) is not None:
            yield due

    def _due(self) -> Window | None:
        while True:
            start_s = self.floor_s
            until_s = start_s + self.window_s + self.guard_s
            watermark_s = self.watermark_s
            if not math.isfinite(start_s) or watermark_s < until_s:
                return None
            if watermark_s == math.inf and not self._whole(start_s):
                return None
            if self._start_s is None:
                self._start_s = start_s
            # Only what begins before `until_s` is taken, however much has arrived: the next window's samples must
            # not depend on how far ahead other streams happen to be.
            for lane in self.lanes.values():
                lane.take_until(until_s)
            self._taken_until_s = max(self._taken_until_s, until_s)
            found = self._cut(start_s)
            self._forward()
            if found is not None:
                return found

    def _whole(self, start_s: float) -> bool:
        """At the end: whether the window lies within what was sent. The first may be longer, as in `SignalFabric`."""
        end_s = max(lane.end_s for lane in self.lanes.values())
        return start_s + self.window_s <= end_s + _SLACK or (self._number == 0 and end_s > start_s)

    def _cut(self, start_s: float) -> Window | None:
        cut = {name: lane.cut(start_s, round(self.window_s * lane.spec.rate_hz)) for name, lane in self.lanes.items()}
        if not any(measured.any() for _, measured in cut.values()):
            return None
        return Window(
            streams={name: torch.from_numpy(values) for name, (values, _) in cut.items()},
            masks={name: torch.from_numpy(measured) for name, (_, measured) in cut.items()},
            t0_s=torch.tensor(start_s, dtype=torch.float64),
            label=torch.tensor(-1),
            window=torch.tensor(self._number),
        )

    def _forward(self) -> None:
        self._number += 1
        floor_s = self.floor_s
        for lane in self.lanes.values():
            lane.drop_before(floor_s)
        oldest_s = min(lane.next_s for lane in self.lanes.values())
        # A clock that jumps by days would otherwise be days of empty windows.
        if (
            self._start_s is not None
            and math.isfinite(oldest_s)
            and oldest_s > floor_s + self.window_s + self.guard_s
        ):
            reach_s = min(oldest_s, self.watermark_s) - self.window_s - self.guard_s - self._start_s
            skipped = max(0, math.floor(reach_s / self.hop_s) - self._number)
            self._number += skipped
            if skipped:
                self._taken_until_s = max(
                    self._taken_until_s, self.floor_s - self.hop_s + self.window_s + self.guard_s
                )
