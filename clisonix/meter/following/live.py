"""What each device draws now, from the samples that a running meter has anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from clisonix.meter.energy import Energy, modelled
from clisonix.meter.sensors.sensor import SensorInfo
from clisonix.meter.words import quantity

RECENT_S = 2.0
"""Power now is the mean over about so long: twenty ticks of a GPU's counter."""
LEAST_SAMPLES = 6
STALE_S = 5.0
"""What was drawn longer ago is not now."""


@dataclass(frozen=True)
class DeviceNow:
    """One device, now.

    Attributes:
        energy: since the meter's first sample.
        watts: mean power of the last two seconds or so; None where that is not known.
        seconds: the time that `energy` is of.
        lost: the `Reason` code if its sensor gives no value now.
    """

    energy: Energy
    watts: float | None
    seconds: float
    lost: str | None = None


@dataclass(frozen=True)
class Live:
    """All devices, now.

    Attributes:
        devices: each once, by its best sensor.
        energy: their sum since the meter's first sample.
    """

    devices: list[DeviceNow]
    energy: Energy

    @property
    def watts(self) -> float | None:
        """Power of all devices; None where that of any is not known, or one has no sensor."""
        known = [device.watts for device in self.devices if device.watts is not None]
        whole = len(known) == len(self.devices) and self.energy.reason is None
        return sum(known) if known and whole else None

    def words(self) -> dict[str, str]:
        """`power` and `energy` for a progress bar: `?` where unknown, and whether a model says so."""
        energy = self.energy
        if energy.joules is None:
            return {"power": "? W", "energy": "? J"}
        power = "? W" if self.watts is None else quantity(self.watts, "W")
        return {"power": power, "energy": quantity(energy.joules, "J") + _remark(energy)}


class Recent(Protocol):
    """A sensor's track, as far as its power now goes."""

    @property
    def info(self) -> SensorInfo: ...
    @property
    def lost(self) -> tuple[str, str] | None: ...
    def recent(self, seconds: float, count: int) -> tuple[Sequence[float], Sequence[float]]: ...


def watts_now(track: Recent, now_s: float) -> float | None:
    """Mean power over the last samples in watts; None if the sensor is lost, silent, or has just begun.

    Args:
        track: a sensor and its samples.
        now_s: on the samples' clock.
    """
    info = track.info
    t_s, joules = track.recent(max(RECENT_S, 4 * (info.refresh_s or 0.0)), LEAST_SAMPLES)
    if track.lost is not None or len(t_s) < 2 or now_s - t_s[-1] > max(STALE_S, 3 * (t_s[-1] - t_s[-2])):
        return None
    falls = [i for i in range(1, len(t_s)) if joules[i] < joules[i - 1]]
    first, last = falls[-1] if falls else 0, len(t_s) - 1  # a counter that was reset begins anew
    if not info.exact_edges:
        # Between its ticks a counter says nothing: from the first tick seen to the last.
        ticks = [i for i in range(first + 1, len(t_s)) if joules[i] != joules[i - 1]]
        if len(ticks) < 2:
            return None
        first, last = ticks[0], ticks[-1]
    seconds = t_s[last] - t_s[first]
    return (joules[last] - joules[first]) / seconds if seconds > 0 else None


def _remark(energy: Energy) -> str:
    models = [modelled(source) for source in energy.source.split("+")]
    if any(models):
        return " modelled" if all(models) else " partly modelled"
    return " incomplete" if energy.reason is not None else ""
