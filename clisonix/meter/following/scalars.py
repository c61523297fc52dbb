"""Energy as plain numbers for other people's loggers and progress bars."""

from __future__ import annotations

import math
from typing import Protocol

from clisonix.meter.meter import Meter


class ScalarWriter(Protocol):
    """What is asked of a logger: `torch.utils.tensorboard.SummaryWriter` has it, and others do."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> object: ...


def energy_scalars(meter: Meter, window: str | None = None, *, prefix: str = "energy") -> dict[str, float]:
    """Energy so far and power now, by tags that loggers take; what is unknown has no entry.

    Tags: `energy/joules` with `energy/joules_low` and `energy/joules_high`, and `energy/watts`, of all devices; the
    same below `energy/gpu0/` for each; and joules below `energy/window/NAME/` for a window.

    Args:
        meter: whose figures. Without a window this reads nothing but the last samples.
        window: a window's name; its figure is made from all samples, so ask once an epoch and not at every step.
        prefix: what all tags begin with.
    """
    live = meter.live()
    found: dict[str, float | None] = {f"{prefix}/watts": live.watts}
    figures = [(prefix, live.energy)]
    for device in live.devices:
        # TensorBoard replaces a colon, and complains.
        place = f"{prefix}/{device.energy.device.replace(':', '')}"
        figures.append((place, device.energy))
        found[f"{place}/watts"] = device.watts
    if window is not None:
        figures.append((f"{prefix}/window/{window}", meter.energy(window)))
    for place, energy in figures:
        found[f"{place}/joules"] = energy.joules
        found[f"{place}/joules_low"] = energy.low
        found[f"{place}/joules_high"] = energy.high
    return {tag: value for tag, value in found.items() if value is not None and math.isfinite(value)}


def tensorboard_log(
    meter: Meter, writer: ScalarWriter, step: int, window: str | None = None, *, prefix: str = "energy"
) -> None:
    """Write energy and power to TensorBoard, or to any object with `add_scalar(tag, value, step)`.

    Args:
        meter: whose figures; see `energy_scalars`.
        writer: e.g. `torch.utils.tensorboard.SummaryWriter()`.
        step: of the training.
        window: also the figure of this window.
        prefix: what all tags begin with.
    """
    for tag, value in energy_scalars(meter, window, prefix=prefix).items():
        writer.add_scalar(tag, value, step)


def energy_postfix(meter: Meter) -> dict[str, str]:
    """Power now and energy so far for a progress bar: `bar.set_postfix(energy_postfix(meter), refresh=False)`.

    Returns:
        `power` and `energy`, e.g. `312 W` and `4.20 kJ`; `?` where unknown, and `modelled` where no instrument says
        so.
    """
    return meter.live().words()
