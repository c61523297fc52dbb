"""The meter: energy of whatever runs inside its windows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from clisonix.errors import ClisonixError, nearest
from clisonix.meter.emissions.carbon import Carbon, carbon
from clisonix.meter.energy import Energy
from clisonix.meter.following.live import Live
from clisonix.meter.idle import WINDOW as IDLE
from clisonix.meter.idle import Split, live_context, split
from clisonix.meter.pace import Pace
from clisonix.meter.recorder import Recorder
from clisonix.meter.recording.trace import Trace
from clisonix.meter.sampler import Sampler
from clisonix.meter.sensors.detect import detect
from clisonix.meter.sensors.sensor import Sensor, Unavailable
from clisonix.meter.window import Window

if TYPE_CHECKING:
    from torch import nn

    from clisonix.meter.attribution.attribute import Attribution
    from clisonix.meter.second_opinion import Opinion, SecondOpinion

HANG_S = 5.0
SECOND_OPINIONS = ("codecarbon",)


class Meter:
    """Samples the machine's energy sensors and accounts for named windows of time.

    ```python
    with Meter() as meter:
        with meter.window("train/dense/epoch-1"):
            ...
        print(meter.energy("train"))
    ```

    The device is not synchronised unless a window asks for it: end a window after the work's result is on the host,
    or open it with `sync=True`.

    Nothing is read before `with`, and nothing at all in a forked child of the process: figures asked for there say
    `forked`. A sensor's samples take 16 bytes each: 0.6 MB for an hour at 10 Hz.

    Args:
        sensors: the sensors to use; None detects them. `replay(path)` gives those of a recorded trace.
        period_s: seconds between samples; None chooses: a little less than the counters' own period, about a second
            in long runs without such a counter, and always so that sampling costs less than 0.1 % of a core for each
            GPU.
        place: where the electricity comes from (see `carbon`); None gives no carbon figure.
        visible: the text of `CUDA_VISIBLE_DEVICES`, when sensors are detected.
        ram: whether to add a modelled line for memory, when sensors are detected.
        trace_path: where to write the trace while running and at the end, so that a killed process leaves it; the
            file is replaced atomically. None writes nothing.
        flush_s: at least so many seconds between two such writes.
        cross_check: `codecarbon` runs CodeCarbon's offline tracker beside the meter, see `second_opinion`.
        unavailable: sensors that could not be used, with the reasons that figures shall give.

    Raises:
        ClisonixError: the period is not positive, or `cross_check` is unknown or not installed.
    """

    def __init__(
        self,
        sensors: Iterable[Sensor] | None = None,
        period_s: float | None = None,
        place: str | None = None,
        visible: str | None = None,
        *,
        ram: bool = False,
        trace_path: Path | str | None = None,
        flush_s: float = 10.0,
        cross_check: str | None = None,
        unavailable: Iterable[Unavailable] = (),
    ) -> None:
        for what, seconds in (("period", period_s), ("flush period", flush_s)):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ClisonixError(f"the meter's {what} is {seconds} s: give a positive number of seconds, e.g. 0.1")
        self.unavailable: list[Unavailable] = list(unavailable)
        if sensors is None:
            sensors, missing = detect(visible, ram=ram)
            self.unavailable += missing
        self.place, self._period_s, self._flush_s = place, period_s, flush_s
        self._trace_path = None if trace_path is None else Path(trace_path)
        self._recorder = Recorder(sensors, self.unavailable, awake=_awake_clock())
        self._sampler: Sampler | None = None
        self._second = _second_opinion(cross_check, place)
        self._opinion: Opinion | None = None

    def __enter__(self) -> Meter:
        if self._sampler is not None:
            raise ClisonixError("the meter runs already: enter it once, and open windows inside")
        if self._recorder.forked:
            raise ClisonixError("the meter was made before this process was forked: make one here")
        if self._second is not None:
            self._second.start()
        self._recorder.sample()
        refreshes = [t.info.refresh_s for t in self._recorder.tracks if t.info.refresh_s and not t.info.exact_edges]
        flush = None if self._trace_path is None else self._flush
        pace = Pace(min(refreshes, default=None), self._period_s, len(refreshes))
        self._sampler = Sampler(self._recorder, pace, flush, self._flush_s)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder.forked or self._sampler is None:
            return
        # A counter's next ticks after the last window narrow that window's interval: wait for them.
        refreshes = [t.info.refresh_s for t in self._recorder.tracks if t.info.refresh_s and not t.info.exact_edges]
        if refreshes and error is None:
            time.sleep(min(1.0, 2.2 * max(refreshes)))
        # A driver that hangs holds its reader; the run's result must not wait for it for ever.
        ended = self._sampler.stop(HANG_S)
        self._sampler = None
        if ended:
            self._recorder.sample(last=True)
        if self._second is not None:
            self._opinion = self._second.stop()
        if self._trace_path is not None:
            try:
                self.save_trace(self._trace_path)
            except ClisonixError:
                # The error that ends the block says more than the one that follows from it.
                if error is None:
                    raise

    @property
    def running(self) -> bool:
        """Whether it was entered and not left yet."""
        return self._sampler is not None

    def window(self, name: str, *, sync: bool = False) -> Window:
        """Account for what happens inside under `name`.

        Windows may nest, overlap and come from several threads; a repeated name accumulates. An exception
        inside closes the window and passes on. `Window.cancel` lets it count for nothing.

        Args:
            name: `/` separates levels, e.g. `train/compressed/epoch-3`.
            sync: wait for the work queued on CUDA devices before the window opens and before it closes.

        Raises:
            ClisonixError: the name is empty or has an empty level.
        """
        if not all(name.split("/")):
            raise ClisonixError(
                f"a window's name needs words between its slashes, like 'train/epoch-1'; given {name!r}"
            )
        return self._recorder.window(name, sync)

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

    def live(self) -> Live:
        """Energy so far and power now, of each device and of all; as cheap, and never reads a sensor."""
        return self._recorder.live()

    def on_close(self, listener: Callable[[Window], None]) -> Callable[[], None]:
        """Have `listener` called with each window that closes, in the thread that closes it: it must be quick.

        Returns:
            a function that ends that.
        """
        self._recorder.listeners.append(listener)
        return lambda: self._recorder.listeners.remove(listener)

    def idle(self, seconds: float = 5.0) -> Split:
        """Measure the idle power now, with CUDA contexts alive; do nothing else meanwhile.

        Measure before the work and after it: `split` then knows whether idle power drifted.

        Args:
            seconds: how long; below 2 s a counter's edges dominate.

        Returns:
            The split of this very stretch: all of it idle.

        Raises:
            ClisonixError: the time is not positive.
        """
        if not 0 < seconds < float("inf"):
            raise ClisonixError(f"idle power was to be measured for {seconds} s: give a positive number, e.g. 5")
        live_context()
        with self.window(IDLE, sync=True):
            time.sleep(seconds)
        return self.split(IDLE)

    def split(self, name: str) -> Split:
        """A window's energy as total, idle and active, by the idle power measured with `idle`."""
        return split(self.trace(), name)

    def attribute(self, model: nn.Module) -> Attribution:
        """Share the energy of a block among the modules of a model that run in it; see `Attribution`."""
        from clisonix.meter.attribution.attribute import Attribution

        return Attribution(self, model)

    @contextlib.contextmanager
    def closely(self) -> Iterator[None]:
        """Inside the block sample at every tick of a counter, whatever that costs: about 0.2 % of a core with a GPU.

        Outside, samples are as rare as the meter's promised cost asks for, and power that changes several times a
        second is known only on average; `attribute` samples so by itself.
        """
        sampler = self._sampler
        if sampler is not None:
            sampler.closely(True)
        try:
            yield
        finally:
            if sampler is not None:
                sampler.closely(False)

    def carbon(self, name: str) -> Carbon:
        """Carbon emitted for a window at the meter's place."""
        return carbon(self.energy(name), self.place)

    @property
    def second_opinion(self) -> Opinion | None:
        """What CodeCarbon said of the meter's whole run; None before the end, and where it was not asked."""
        return self._opinion

    def trace(self, *, fresh: bool = True) -> Trace:
        """A copy of all samples and windows so far; open windows reach to the last sample.

        Args:
            fresh: wait, a quarter of a second at most, for a sample from after the last window's edge; else a window
                that closed just now counts as open.
        """
        return self._recorder.trace(fresh)

    def save_trace(self, path: Path | str) -> Trace:
        """Write all samples and windows so far to a `.npz` file, atomically, and return what was written.

        Figures taken from the returned trace are the ones that the file gives, to the last bit; figures taken
        from the meter later may be narrower, because later ticks of a counter tell more.

        Raises:
            ClisonixError: the file cannot be written, or this process is a fork of the one that measures.
        """
        trace = self.trace()
        if self._recorder.forked:
            raise ClisonixError(f"{path} was not written: {trace.unavailable[0].reason}")
        trace.save(Path(path))
        return trace

    def _flush(self) -> None:
        assert self._trace_path is not None
        self._recorder.trace().save(self._trace_path)


def _awake_clock() -> Callable[[], float] | None:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return None if boot is None else lambda: time.clock_gettime(boot)


def _second_opinion(cross_check: str | None, place: str | None) -> SecondOpinion | None:
    if cross_check is None:
        return None
    if cross_check not in SECOND_OPINIONS:
        raise ClisonixError(f"cross_check is {cross_check!r}{nearest(cross_check, SECOND_OPINIONS)}")
    from clisonix.meter.second_opinion import SecondOpinion

    return SecondOpinion(place)
