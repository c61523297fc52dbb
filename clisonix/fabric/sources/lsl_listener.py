"""The thread that takes the samples of one live stream from liblsl."""

from __future__ import annotations

import queue
import threading
from collections import deque
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Marker, StreamInfo, plain, unique

MOST = 100_000  # events and offsets that are remembered
_PULL_S = 0.1  # how soon a stop is noticed
_MEASURE_S = 5.0  # liblsl measures the clock offset about this often
_SMOOTH = 9  # offsets whose median is used


class Segment(NamedTuple):
    """An unbroken connection to a producer.

    Attributes:
        first: index of its first sample.
        start_s: stamp of its first sample.
    """

    first: int
    start_s: float


class Inbox(queue.Queue["Chunk | None"]):
    """Chunks that wait to be taken; with `maxsize` samples it is full and its producer waits. None is the end."""

    def end(self) -> None:
        """Append the end, even when full."""
        with self.mutex:
            self._put(None)
            self.not_empty.notify_all()

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._samples = 0

    def _put(self, item: Chunk | None) -> None:
        super()._put(item)
        self._samples += 1 if item is None else len(item.times_s)

    def _get(self) -> Chunk | None:
        item: Chunk | None = super()._get()
        self._samples -= 1 if item is None else len(item.times_s)
        return item

    def _qsize(self) -> int:
        return self._samples


class Listener:
    """One stream: its connection, and the loop of its thread.

    Attributes:
        info: what the stream says of itself.
        text: it is a stream of text, whose samples become `events`.
        inbox: where chunks go.
        offsets: time on the producer's clock, and what to add to get this machine's.
        segments: the connections so far.
        failure: what ended the thread, other than `stop`.
    """

    _inlet: Any = None

    def __init__(  # pylsl has no types
        self,
        lsl: Any,  # noqa: ANN401
        name: str,
        stop: threading.Event,
        *,
        buffer_s: float,
        wait_s: float,
    ) -> None:
        self.name, self.buffer_s = name, buffer_s
        self.lsl, self.stop = lsl, stop
        self._lost, self._late = lsl.util.LostError, lsl.util.TimeoutError
        self.inbox = Inbox()
        self.offsets: deque[tuple[float, float]] = deque(maxlen=MOST)
        self.segments: list[Segment] = []
        self.events: deque[Marker] = deque(maxlen=MOST)
        self.failure: Exception | None = None
        self.index = 0
        self._recent: deque[float] = deque(maxlen=_SMOOTH)
        self._next_measure_s = 0.0
        self._last_s: float | None = None
        self.text = False
        found = self.lsl.resolve_byprop("name", name, minimum=2, timeout=min(wait_s, 0.5))
        found = found or self.lsl.resolve_byprop("name", name, timeout=wait_s)
        if len(found) != 1:
            what = "there is no live stream" if not found else f"there are {len(found)} live streams"
            raise ClisonixError(f"{what} {name!r}: start one producer of that name, and see that it can be reached")
        try:
            self._open(found[0], wait_s)
            self.text = found[0].channel_format() == self.lsl.cf_string
            self.info = _describe(self._inlet.info(timeout=wait_s), name)
        except (self._late, self._lost) as error:
            raise ClisonixError(f"the live stream {name!r} is announced but does not answer") from error
        self.inbox.maxsize = round(buffer_s * (self.info.rate_hz or 100.0))
        self._block = 4096 if self.info.rate_hz is None else max(1, round(self.info.rate_hz * _PULL_S))

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    self._pull(_PULL_S)
                except self._lost:  # only of a producer without an identity; others liblsl finds again
                    self._find_again()
            while self._inlet is not None and self._pull(0.0):  # what has arrived already
                pass
        except Exception as error:  # told by stop()
            self.failure = error
        finally:
            self.inbox.end()

    def close(self) -> None:
        self._inlet = None  # pylsl disconnects when it is collected

    def _open(self, info: Any, wait_s: float) -> None:  # noqa: ANN401 - pylsl has no types
        self._inlet = self.lsl.StreamInlet(info, max_buflen=max(1, round(self.buffer_s)), as_numpy=True)
        self._inlet.open_stream(timeout=wait_s)
        self._measure(wait_s)
        self._last_s = None

    def _find_again(self) -> None:
        self._inlet = None
        while not self.stop.is_set():
            found = self.lsl.resolve_byprop("name", self.name, timeout=0.5)
            if found:
                try:
                    self._open(found[0], 2.0)
                except (self._late, self._lost):
                    continue
                return

    def _pull(self, wait_s: float) -> bool:
        """Take what there is; False if there was nothing, or no room for it."""
        samples, times = self._inlet.pull_chunk(timeout=wait_s, max_samples=self._block, min_samples=1)
        if self._inlet.was_clock_reset():
            # What has just been pulled may still be of the producer before.
            if len(times) and self._last_s is not None and 0 < times[0] - self._last_s < _MEASURE_S:
                self._hand_over(samples, times)
                times = times[:0]
            self._new_clock()
        elif self.lsl.local_clock() >= self._next_measure_s:
            self._measure(0.0)
        return len(times) > 0 and self._hand_over(samples, times)

    def _new_clock(self) -> None:
        """Another process, perhaps another machine: its stamps mean nothing before its clock is known.

        Meanwhile samples wait inside liblsl.
        """
        before_s = self._offset()
        self._last_s = None
        self._recent.clear()
        deadline_s = self.lsl.local_clock() + _MEASURE_S
        while not self._recent and self.lsl.local_clock() < deadline_s and not self.stop.is_set():
            self._measure(_PULL_S)
        if not self._recent:  # it has gone already
            self._recent.append(before_s)

    def _hand_over(self, samples: Any, times: Any) -> bool:  # noqa: ANN401 - pylsl has no types
        times_s = np.asarray(times, np.float64) + self._offset()
        if self.text:
            for row, time_s in zip(samples, times_s, strict=True):
                label = plain(bytes(row[0]).decode("utf-8", "replace"))
                self.events.append(Marker(float(time_s), label, self.name))
            return True
        if self._last_s is None:
            self.segments.append(Segment(self.index, float(times_s[0])))
        self._last_s = float(times[-1])
        chunk = Chunk(self.name, np.ascontiguousarray(samples.T, np.float32), times_s, self.index)
        while True:
            try:
                self.inbox.put(chunk, timeout=_PULL_S)
                self.index += len(times_s)
                return True
            except queue.Full:
                if self.stop.is_set():
                    return False

    def _measure(self, wait_s: float) -> None:
        try:
            offset_s = float(self._inlet.time_correction(timeout=wait_s))
        except self._late:
            self._next_measure_s = self.lsl.local_clock() + _PULL_S
            return
        now_s = self.lsl.local_clock()
        self._next_measure_s = now_s + _MEASURE_S
        self._recent.append(offset_s)
        self.offsets.append((now_s - offset_s, offset_s))

    def _offset(self) -> float:
        return median(self._recent) if self._recent else 0.0


def _describe(info: Any, name: str) -> StreamInfo:  # noqa: ANN401 - pylsl has no types
    count = info.channel_count()
    labels = [plain(label) for label in info.get_channel_labels() or [] if label]
    units = [plain(unit or "") for unit in info.get_channel_units() or []]
    rate_hz = float(info.nominal_srate())
    return StreamInfo(
        name=name,
        channels=unique(labels) if len(labels) == count else tuple(f"ch{i}" for i in range(count)),
        units=tuple(units) if len(units) == count else ("",) * count,
        rate_hz=rate_hz if rate_hz > 0 else None,
        clock="lsl",
        gaps_s=None,
    )
