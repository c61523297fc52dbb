"""Live streams woven into windows as they arrive, in bounded memory."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from clisonix.errors import ClisonixError
from clisonix.fabric.lane import LiveStream
from clisonix.fabric.source import Chunk
from clisonix.fabric.weaver import Weaver
from clisonix.fabric.window import Window

_POLL_S = 0.002

Input = Iterable[Chunk] | queue.Queue[Chunk | None]


def weave(
    inputs: Mapping[str, Input],
    streams: Mapping[str, LiveStream],
    *,
    window: float,
    hop: float | None = None,
    lateness_s: float = 0.0,
    idle_s: float = 2.0,
    budget_bytes: int = 64 << 20,
    start_s: float | None = None,
    late: Callable[[Chunk], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Window]:
    """Windows of live streams, as they become complete.

    A stream that is further ahead than the memory allows is not read until the others have caught up: a full queue
    makes its producer wait. A stream that sends nothing for `idle_s` is no longer waited for, and masked; when it
    sends again it counts again, and what belongs to windows that are gone goes to `late`.

    Args:
        inputs: for each stream its chunks: a queue (None ends it), or an iterable, which must not wait for long,
            since nobody else is read meanwhile.
        streams: what each stream sends.
        window: length in seconds.
        hop: step between windows in seconds; None takes `window`.
        lateness_s: how much out of order chunks may come; windows come that much later.
        idle_s: how long a silent stream is waited for.
        budget_bytes: of samples and stamps held here. Queues hold more.
        start_s: see `Weaver`.
        late: called with chunks, or parts of them, that come too late.
        clock: seconds that pass, for `idle_s`.

    Raises:
        ClisonixError: inputs and streams that do not go together, a budget that cannot hold a window, or chunks that
            do not fit the budget.
    """
    if inputs.keys() != streams.keys():
        odd = sorted(inputs.keys() ^ streams.keys())
        raise ClisonixError(f"inputs and streams name different streams: {', '.join(map(repr, odd))}")
    weaver = Weaver(streams, window=window, hop=hop, lateness_s=lateness_s, start_s=start_s, late=late)
    total = sum(spec.bytes_per_s for spec in streams.values())
    share = {name: int(budget_bytes * spec.bytes_per_s / total) for name, spec in streams.items()}
    # One more hop, since a chunk that straddles the start of a window is kept whole.
    least_s = weaver.window_s + weaver.hop_s + 2 * weaver.guard_s + lateness_s
    least = {name: math.ceil(least_s * spec.bytes_per_s) for name, spec in streams.items()}
    if budget_bytes <= sum(least.values()):
        raise ClisonixError(
            f"budget_bytes is {budget_bytes}, and windows of {window:g} s with this hop, lateness and jitter need "
            f"{sum(least.values())} and room for chunks: give more, or shorten the windows"
        )
    readers = {name: _Reader(source, clock) for name, source in inputs.items()}

    def may_read(name: str) -> bool:
        lane = weaver.lanes[name]
        if lane.nbytes + lane.largest <= share[name]:
            return True
        # All that the next window needs would fit: either chunks are too long, or there are more than was promised.
        if lane.frontier_s - lane.spec.jitter_s - lateness_s < weaver.floor_s + weaver.window_s + weaver.guard_s:
            raise ClisonixError(
                f"{name} fills its {share[name]} bytes of the budget with {lane.nbytes} bytes, in chunks of up to "
                f"{lane.largest}, before one window is complete: send shorter chunks, check that it has "
                f"{lane.spec.rate_hz:g} samples per second of its stamps, or raise budget_bytes"
            )
        return False

    while True:
        progress = False
        for name, reader in readers.items():
            if reader.ended:
                continue
            if not may_read(name):
                reader.rest()
                continue
            chunk = reader.next()
            if chunk is not None:
                if chunk.stream != name:
                    raise ClisonixError(f"the input {name!r} sent a chunk of the stream {chunk.stream!r}")
                weaver.push(chunk)
            elif reader.has_ended():
                weaver.close(name)
            else:
                if reader.silent_s > idle_s:
                    weaver.idle(name)
                continue
            progress = True
            yield from weaver.windows()
        if not progress:
            yield from weaver.windows()
            if all(reader.ended for reader in readers.values()):
                return
            time.sleep(_POLL_S)


class _Reader:
    """Takes chunks from a queue or an iterable without waiting, and knows for how long there were none."""

    def __init__(self, source: Input, clock: Callable[[], float]) -> None:
        self._take: Callable[[], Chunk | None]
        if isinstance(source, queue.Queue):
            self._take = source.get_nowait
        else:
            items = iter(source)
            self._take = lambda: next(items, None)
        self._clock = clock
        self._since_s = clock()
        self.ended = False

    def next(self) -> Chunk | None:
        try:
            chunk = self._take()
        except queue.Empty:
            return None
        self._since_s = self._clock()
        self.ended = chunk is None
        return chunk

    def has_ended(self) -> bool:
        """Whether the last answer of `next` was its end, not just silence."""
        return self.ended

    def rest(self) -> None:
        """It was not asked, so its silence does not count."""
        self._since_s = self._clock()

    @property
    def silent_s(self) -> float:
        return self._clock() - self._since_s
