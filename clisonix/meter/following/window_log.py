"""A log with one line for each window, as it closes."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.files import append_lines
from clisonix.meter.energy import Energy
from clisonix.meter.meter import Meter
from clisonix.meter.spans import Span
from clisonix.meter.window import Window

SETTLE_S = 0.3
"""The ticks of a counter that follow a window narrow its interval: wait for some."""
COST_SHARE = 0.005
"""The most that making figures while the meter runs may cost, as a share of a core."""


class JsonlLog:
    """Appends one line of JSON for each closed window; nothing that is in the file is ever changed.

    ```python
    with Meter() as meter, JsonlLog("energy.jsonl").follow(meter):
        with meter.window("load"):
            ...
    ```

    A line has `event` (`window`), `window`, `ended_utc`, `seconds`, `validity`, and the fields of `Energy`: `joules`
    is null where it is unknown, with the `reason`. Lines are written whole and reach the disk before the next ones;
    what a power cut tears off is skipped by `read`, and does not spoil the line after it.

    Args:
        path: the file; made with its folder if it is not there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @contextmanager
    def follow(self, meter: Meter) -> Iterator[JsonlLog]:
        """Log every window of a running meter that closes inside the block.

        The lines are made a moment later by a thread of their own: closing a window costs nothing more. Windows that
        come fast are written together, so a kill may lose those of the last moments. At the end all are written.

        Raises:
            ClisonixError: at the end, if the file could not be written.
        """
        follower = _Follower(self, meter)
        ending = meter.on_close(follower.closed)
        follower.start()
        try:
            yield self
        except BaseException:
            ending()
            follower.stop()
            raise
        ending()
        follower.stop()
        if follower.failure is not None:
            raise follower.failure

    def write(self, window: Window) -> None:
        """Append the line of one window that has closed, now.

        Raises:
            ClisonixError: the window is still open, or the file cannot be written.
        """
        if window.seconds is None or window.end_s is None:
            raise ClisonixError(f"the window {window.name!r} is not closed yet: write it after its `with` block")
        closed_s = time.time() - (time.perf_counter() - window.end_s)
        append_lines(self.path, [_line(window.name, window.seconds, window.energy(), _utc(closed_s))])

    def read(self) -> list[dict[str, Any]]:
        """The lines so far, without those that a crash tore.

        Raises:
            ClisonixError: the file cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ClisonixError(f"cannot read {self.path}: {error.strerror or error}") from error
        found = []
        for line in content.split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in found if isinstance(line, dict)]


class _Follower:
    def __init__(self, log: JsonlLog, meter: Meter) -> None:
        self._log, self._meter = log, meter
        self._pending: deque[tuple[Window, float]] = deque()
        self._bell, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="clisonix-window-log", daemon=True)
        self.failure: ClisonixError | None = None

    def start(self) -> None:
        self._thread.start()

    def closed(self, window: Window) -> None:
        self._pending.append((window, time.time()))
        self._bell.set()

    def stop(self) -> None:
        self._ended.set()
        self._bell.set()
        self._thread.join()

    def _run(self) -> None:
        rest_s = SETTLE_S
        while not self._ended.is_set():
            self._bell.wait()
            self._ended.wait(rest_s)
            self._bell.clear()
            before_s = time.thread_time()
            self._write()
            rest_s = max(SETTLE_S, (time.thread_time() - before_s) / COST_SHARE)
        self._write()

    def _write(self) -> None:
        windows = [self._pending.popleft() for _ in range(len(self._pending))]
        windows = [(window, closed_s) for window, closed_s in windows if not window.cancelled]
        if not windows:
            return
        try:
            trace = self._meter.trace()
            lines = []
            for window, closed_s in windows:
                if window.start_s is None or window.end_s is None:
                    continue
                energy = trace.energy_during([Span(window.name, window.start_s, window.end_s)])
                lines.append(_line(window.name, window.end_s - window.start_s, energy, _utc(closed_s)))
            append_lines(self._log.path, lines)
        except ClisonixError as error:  # told at the end: a full disk must not end the work
            self.failure = error


def _line(name: str, seconds: float, energy: Energy, ended_utc: str) -> dict[str, Any]:
    about = {"event": "window", "window": name, "ended_utc": ended_utc, "seconds": seconds}
    # A bound may be infinite, which JSON cannot say; no bound is what it means.
    figure = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in energy.to_json().items()}
    return {**about, "validity": energy.validity, **figure}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
