"""A meter whose samples come from a virtual world, read when told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meter_fakes import World

from clisonix.meter import Meter, Recorder, Unavailable


def virtual_meter(
    world: World, sensors: Sequence[Any], *, place: str | None = None, unavailable: Sequence[Unavailable] = ()
) -> tuple[Meter, Recorder]:
    meter = Meter([], place=place)
    meter.unavailable = list(unavailable)
    meter._recorder = recorder = Recorder(sensors, unavailable, clock=world.clock)
    recorder.sample()
    return meter, recorder
