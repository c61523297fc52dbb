"""Live streams of the Lab Streaming Layer, by name.

Outlets on the network announce themselves; whoever knows a name can listen. Nothing is sent by this side but the
discovery that liblsl does, as its configuration file says. Reference: https://labstreaminglayer.readthedocs.io.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.fabric.source import Chunk, Float64Array, SourceInfo, StreamInfo, needs, wanted
from clisonix.fabric.sources.lsl_listener import Inbox, Listener, Segment
from clisonix.fabric.stream import Event


class LslSource:
    """Named live streams; a context manager.

    Each stream has a thread that takes its samples from liblsl and puts them into `inboxes[name]`, which `weave`
    takes as input. Streams of text become events. A producer that is restarted is found again; its samples go on in a
    new segment. Samples wait in an inbox for `buffer_s`, then as long again inside liblsl, which then drops the
    oldest; in the stamps that is a gap.

    Stamps are on this machine's LSL clock: what the producer wrote plus the median of the latest offsets between the
    two clocks.

    Example:
        ```python
        with LslSource(["Muse EEG", "Microphone"]) as source:
            specs = {name: LiveStream.of(info) for name, info in source.streams.items()}
            for window in weave(source.inboxes, specs, window=1.0): ...
        ```
    """

    def __init__(self, names: Sequence[str], *, buffer_s: float = 10.0, wait_s: float = 10.0) -> None:
        """Find the streams and begin to listen.

        Args:
            names: names of streams, each of which exists once.
            buffer_s: of samples that wait before the producer's are dropped.
            wait_s: how long to look for each.

        Raises:
            ClisonixError: pylsl missing, a stream that is not there or there twice, or one that does not answer.
        """
        try:
            import pylsl
        except (ImportError, RuntimeError, OSError) as error:  # without its library pylsl raises RuntimeError
            missing = error if isinstance(error, ImportError) else ImportError(str(error), name="liblsl")
            raise needs("live", "pylsl", "live streams", missing) from error
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise ClisonixError(f"names is {names!r}, expected a list of different names of streams")
        if not buffer_s >= 1:
            raise ClisonixError(f"buffer_s is {buffer_s}, expected a second or more")
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listeners: dict[str, Listener] = {}
        try:
            for name in names:
                listener = Listener(pylsl, name, self._stop, buffer_s=buffer_s, wait_s=wait_s)
                self._listeners[name] = listener
                thread = threading.Thread(target=listener.run, name=f"lsl {name}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.stop()
            raise

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """The streams of samples, by the names that were asked for."""
        return {name: li.info for name, li in self._listeners.items() if not li.text}

    @property
    def inboxes(self) -> Mapping[str, Inbox]:
        """Where the chunks of each stream of samples arrive; take them from here, or by `chunks`, not both."""
        return {name: li.inbox for name, li in self._listeners.items() if not li.text}

    def inspect(self) -> SourceInfo:
        """What the streams say of themselves."""
        return SourceInfo(tuple(li.info for li in self._listeners.values()), None, None, "LSL")

    def chunks(self, streams: Sequence[str] | None = None, seconds: float = 10.0) -> Iterator[Chunk]:
        """Chunks as they arrive, until `stop`; what nobody took before comes first. See `Source.chunks`."""
        names = [i.name for i in wanted(self.inspect(), streams, seconds).streams if i.name in self.inboxes]
        open_ = {name: self.inboxes[name] for name in names}
        while open_:
            silent = True
            for name, inbox in list(open_.items()):
                try:
                    chunk = inbox.get_nowait()
                except queue.Empty:
                    continue
                silent = False
                if chunk is None:
                    del open_[name]
                else:
                    yield chunk
            if silent:
                self._stop.wait(0.005)

    def events(self) -> list[Event]:
        """What streams of text have said so far, the latest hundred thousand."""
        events = [event for listener in self._listeners.values() for event in list(listener.events)]
        return sorted(events, key=lambda event: event.time_s)

    def clock_offsets(self) -> Mapping[str, Float64Array]:
        """For each stream `(measurements, 2)`: time on its producer's clock, and what to add to get this one's."""
        return {name: np.array(list(li.offsets)).reshape(-1, 2) for name, li in self._listeners.items()}

    def segments(self, name: str) -> tuple[Segment, ...]:
        """The connections of a stream so far; each restart of its producer begins one."""
        return tuple(self._listeners[name].segments)

    def stop(self) -> None:
        """End all threads and connections. What has arrived can still be taken. Safe to call twice.

        Raises:
            ClisonixError: a stream had failed meanwhile.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for listener in self._listeners.values():
            listener.close()
        for name, listener in self._listeners.items():
            if listener.failure is not None:
                error, listener.failure = listener.failure, None
                raise ClisonixError(f"the live stream {name} failed: {error}") from error

    def __enter__(self) -> LslSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
