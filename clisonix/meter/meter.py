"""The meter: energy of whatever runs inside its windows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from clisonix.errors import ClisonixError
from clisonix.meter.carbon import Carbon, carbon
from clisonix.meter.detect import detect
from clisonix.meter.energy import Energy
from clisonix.meter.recorder import Recorder
from clisonix.meter.sensor import Sensor, Unavailable
from clisonix.meter.trace import Trace

SAMPLES_PER_PERIOD = 1_000_000
"""After so many samples the period doubles, so memory (16 bytes a sample) grows ever slower."""


class Meter:
    """Samples the machine's energy sensors and accounts for named windows of time.

    ```python
    with Meter() as meter:
        with meter.window("train/dense/epoch-1"):
            ...
        print(meter.energy("train"))
    ```

    The device is never synchronised: end a window after the work's result is on the host.

    A sensor's samples take 16 bytes each: 0.6 MB for an hour at 10 Hz, 14 MB for a day.

    Args:
        sensors: the sensors to use; None detects them.
        period_s: seconds between samples.
        place: where the electricity comes from (see `carbon`); None gives no carbon figure.
        visible: the text of `CUDA_VISIBLE_DEVICES`, when sensors are detected.

    Raises:
        ClisonixError: the period is not positive.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor] | None = None,
        period_s: float = 0.1,
        place: str | None = None,
        visible: str | None = None,
    ) -> None:
        if not 0 < period_s < float("inf"):
            raise ClisonixError(f"the meter's period is {period_s} s: give a positive number of seconds, e.g. 0.1")
        self.unavailable: list[Unavailable] = []
        if sensors is None:
            sensors, self.unavailable = detect(visible)
        self.place, self._period_s = place, period_s
        self._recorder = Recorder(sensors, self.unavailable)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        self._recorder.sample()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="clisonix-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A counter's next tick after the last window narrows that window's interval: wait for it.
        refreshes = [track.info.refresh_s for track in self._recorder.tracks if track.info.refresh_s is not None]
        if refreshes and error is None:
            self._stop.wait(min(1.0, 2 * max(refreshes)))
        self._stop.set()
        if self._thread is not None:
            # A driver that hangs holds its reader; the run's result must not wait for it for ever.
            self._thread.join(timeout=10.0)
            hangs = self._thread.is_alive()
            self._thread = None
            if hangs:
                return
        self._recorder.sample()

    def window(self, name: str) -> AbstractContextManager[None]:
        """Account for what happens inside under `name`.

        Windows may nest, overlap and come from several threads; a repeated name accumulates. An exception
        inside closes the window and passes on.

        Args:
            name: `/` separates levels, e.g. `train/compressed/epoch-3`.

        Raises:
            ClisonixError: the name is empty or has an empty level.
        """
        if not all(name.split("/")):
            raise ClisonixError(
                f"a window's name needs words between its slashes, like 'train/epoch-1'; given {name!r}"
            )
        return self._recorder.window(name)

    def names(self) -> list[str]:
        """The window names, in order of first opening."""
        return self.trace().names()

    def seconds(self, name: str) -> float:
        """Time spent in a window, in seconds; see `energy` for names."""
        return self.trace().seconds(name)

    def readings(self, name: str) -> list[Energy]:
        """One figure per sensor for a window; see `energy` for names."""
        return self.trace().readings(name)

    def energy(self, name: str) -> Energy:
        """The best figure of each device for a window, summed.

        Args:
            name: a window's name; where no window has that very name, all windows below `name/`.
        """
        return self.trace().energy(name)

    def energy_so_far(self) -> Energy:
        """Energy of all devices since the meter started; cheap enough for every step of a progress bar."""
        return self._recorder.so_far()

    def carbon(self, name: str) -> Carbon:
        """Carbon emitted for a window at the meter's place."""
        return carbon(self.energy(name), self.place)

    def trace(self) -> Trace:
        """A copy of all samples and windows so far; open windows reach to the last sample."""
        return self._recorder.trace()

    def save_trace(self, path: Path) -> Trace:
        """Write all samples and windows so far to a `.npz` file, atomically, and return what was written.

        Figures taken from the returned trace are the ones that the file gives, to the last bit; figures taken
        from the meter later may be narrower, because later ticks of a counter tell more.
        """
        trace = self.trace()
        trace.save(Path(path))
        return trace

    def _run(self) -> None:
        due_s = time.perf_counter()
        while True:
            samples = max((len(track) for track in self._recorder.tracks), default=0)
            period_s = self._period_s * 2 ** (samples // SAMPLES_PER_PERIOD)
            # Counting from the last due time keeps the pace; a missed beat is skipped, not made up for.
            late_s = time.perf_counter() - due_s
            due_s += period_s * max(1.0, late_s // period_s + 1)
            if self._stop.wait(max(0.0, due_s - time.perf_counter())):
                return
            self._recorder.sample()
