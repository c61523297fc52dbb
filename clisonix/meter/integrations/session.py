"""The metering of one training run that a framework drives through callbacks."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.energy import MODELLED, Energy
from clisonix.meter.meter import Meter
from clisonix.meter.recording.record import Record
from clisonix.meter.recording.run_folder import RunFolder
from clisonix.meter.sensors.detect import detect
from clisonix.meter.window import Window

FLUSH_S = 2.0
"""A trainer that fails does not always say so: what is not on disk by then is lost."""
RECENT_S = 1.0
"""Power is a mean over at least so long: ten ticks of a GPU's counter."""
PARENT_COUNTS = "CPU time of this process is counted in the record of the process that started it, and not here."
EVALUATE, CHECKPOINT = "evaluate", "checkpoint"
log = logging.getLogger("clisonix.meter")


class Session:
    """Windows `run`, `train/<phase>/epoch-<k>`, `evaluate` and `checkpoint` of a training, its figures and folder.

    Args:
        folder: of the run; None writes nothing. Of several processes each writes `rank-<k>` inside.
        meter: a running meter to use; None makes one for the time of the training.
        place: see `carbon`.
        visible: the text of `CUDA_VISIBLE_DEVICES`, for a meter of its own; None takes the GPUs that hold memory of
            this process when training begins.
        phase: middle part of the epochs' names.
    """

    def __init__(
        self, folder: Path | str | None, meter: Meter | None, place: str | None, visible: str | None, phase: str
    ) -> None:
        if not phase or "/" in phase:
            raise ClisonixError(f"the phase is {phase!r}: give one word without a slash, like 'fit'")
        self.meter: Meter | None = None
        self.record: Record | None = None
        self.how = ""
        self._given, self._place, self._visible, self._phase = meter, place, visible, phase
        self._folder = None if folder is None else Path(folder)
        self._folder_of_run: RunFolder | None = None
        self._open: list[Window] = []
        self._marks: deque[tuple[float, dict[str, tuple[float, float]]]] = deque()
        self._notes: list[str] = []
        self._told = False

    @property
    def active(self) -> bool:
        """Whether a training is being metered."""
        return bool(self._open)

    def begin(
        self,
        *,
        rank: int,
        world: int,
        resume: bool,
        seed: int | None,
        config: Mapping[str, Any],
        packages: Iterable[str],
        several_gpus: bool = False,
        parent_counts: bool = False,
    ) -> None:
        """Begin to meter.

        Args:
            rank: of this process.
            world: how many processes make the run.
            resume: whether it goes on from a checkpoint.
            seed: of all randomness.
            config: the recipe.
            packages: those whose versions the record names.
            several_gpus: this process will use every GPU that it can see, although not yet.
            parent_counts: this process was started by another one of the run, which counts its CPU time.

        Raises:
            ClisonixError: the folder holds something else, the place is unknown, or the given meter does not run.
        """
        if self.active:
            self.abort(None)
        if self._given is not None and not self._given.running:
            raise ClisonixError("the meter given to EnergyCallback does not run: train inside its `with` block")
        if rank and self._folder is None:
            return  # nothing would be told of it
        self._notes, self._told, self.record = [], False, None
        visible = gpus_in_use(several_gpus) if self._visible is None and self._given is None else self._visible
        trace = None
        if self._folder is not None:
            path = self._folder if world == 1 else self._folder / f"rank-{rank}"
            if world > 1:
                self._notes.append(
                    f"One of {world} processes: `clisonix merge` makes one record of all, each device counted once."
                )
            self._folder_of_run = RunFolder.begin(
                path, resume=resume, visible=visible, seed=seed, config=_plain(config), place=self._place,
                packages=("clisonix", *packages), name=self._folder.resolve().name, rank=rank if world > 1 else None,
            )  # fmt: skip
            trace = self._folder_of_run.trace
        if self._given is None:
            sensors, missing = detect(visible)
            if parent_counts and any(sensor.source == MODELLED for sensor in sensors):
                sensors = [sensor for sensor in sensors if sensor.source != MODELLED]
                # Without a sensor every reason would count as a device that is missing.
                missing = missing if sensors else []
                self._notes.append(PARENT_COUNTS)
            self.meter = Meter(sensors, place=self._place, trace_path=trace, flush_s=FLUSH_S, unavailable=missing)
            self.meter.__enter__()
        else:
            self.meter = self._given
        self._marks.clear()
        self._mark()
        self._enter("run")

    def switch(self, name: str | None) -> None:
        """Close the window inside `run`, if one is open, and open another one.

        The GPU's queued work is waited for, so that it falls into the window in which it was asked for.
        """
        if not self.active or (len(self._open) > 1 and self._open[-1].name == name):
            return
        if len(self._open) > 1:
            self._leave()
        if name is not None:
            self._enter(name)

    def epoch(self, number: int) -> str:
        """The window's name of an epoch, counted from 1."""
        return f"train/{self._phase}/epoch-{number}"

    def figures(self) -> dict[str, float]:
        """`energy_j`, `energy_low_j` and `energy_high_j` since training began, and `power_w` lately.

        What is unknown is left out, and its reason logged once. `how` says how the figures were obtained.
        """
        if self.meter is None or not self.active:
            return {}
        energy = self.meter.energy_so_far() if self._given is None else self._open[0].energy()
        self.how = energy.how()
        if energy.joules is None:
            if not self._told:
                log.warning("energy is not logged: %s", energy.reason)
            self._told = True
            return {}
        found = {"energy_j": energy.joules, "energy_low_j": energy.low, "energy_high_j": energy.high}
        found["power_w"] = self._power(energy)
        return {key: value for key, value in found.items() if value is not None}

    def end(self, size: Mapping[str, Any] | None = None) -> None:
        """End, and write the record if there is a folder."""
        meter = self._stop(None)
        if meter is None or self._folder_of_run is None:
            return
        if self._given is not None:
            meter.save_trace(self._folder_of_run.trace)
        visible = self._visible
        self.record = self._folder_of_run.end(visible=visible, notes=self._notes, size=size)

    def abort(self, error: BaseException | None) -> None:
        """End after an error: the trace is saved, and no record is written, as the run has not come to its end."""
        meter = self._stop(error or RuntimeError("the training was left"))
        if meter is not None and self._given is not None and self._folder_of_run is not None:
            meter.save_trace(self._folder_of_run.trace)

    def _stop(self, error: BaseException | None) -> Meter | None:
        meter, self.meter = self.meter, None
        if meter is None:
            return None
        while self._open:
            self._leave(error)
        if self._given is None:
            meter.__exit__(None if error is None else type(error), error, None)
        return meter

    def _enter(self, name: str) -> None:
        assert self.meter is not None
        self._open.append(self.meter.window(name, sync=True).__enter__())

    def _leave(self, error: BaseException | None = None) -> None:
        self._open.pop().__exit__(None if error is None else type(error), error, None)

    def _mark(self) -> dict[str, tuple[float, float]]:
        assert self.meter is not None
        devices = self.meter.live().devices
        mark = {d.energy.device: (d.energy.joules, d.seconds) for d in devices if d.energy.joules is not None}
        self._marks.append((time.monotonic(), mark))
        return mark

    def _power(self, energy: Energy) -> float | None:
        """Mean power since the newest mark that is old enough, else since the oldest, in watts."""
        now = self._mark()
        while len(self._marks) > 2 and self._marks[-1][0] - self._marks[1][0] >= RECENT_S:
            self._marks.popleft()
        before = self._marks[0][1]
        watts = []
        for device in energy.device.split("+"):
            if device not in now:
                return None
            joules, seconds = (b - a for a, b in zip(before.get(device, (0.0, 0.0)), now[device], strict=True))
            if seconds <= 0:
                return None
            watts.append(joules / seconds)
        return math.fsum(watts)


def gpus_in_use(all_visible: bool = False) -> str:
    """The UUIDs of the GPUs that hold memory of this process, as `CUDA_VISIBLE_DEVICES` would list them.

    Args:
        all_visible: those that hold none yet too.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ""
    indices = range(torch.cuda.device_count())
    used = [i for i in indices if all_visible or torch.cuda.memory_reserved(i) > 0] or [torch.cuda.current_device()]
    return ",".join(f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in used)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
