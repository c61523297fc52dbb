"""Memory energy modelled from the memory this process holds; only where it is asked for.

Coefficient: Cloud Carbon Footprint, https://www.cloudcarbonfootprint.org/docs/methodology/ (0.392 W per GB, the mean
of manufacturers' figures of 0.375 and 0.408 for DDR4 modules in use). The interval is a judgement: a quarter of that
for modules that only refresh, twice that for small modules under load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.reasons import Reason
from clisonix.meter.sensors.sensor import SensorLost

SOURCE = "ram-model"


class RamModel:
    """Resident memory of this process, times watts per gigabyte, summed over time.

    Args:
        watts: per GB (1e9 bytes).
        low: lower end of the interval.
        high: upper end.
        clock: seconds; replaced in tests.
        resident: bytes that this process holds; None asks Linux.

    Raises:
        ClisonixError: not 0 < low <= watts <= high.
    """

    name = "ram"
    source = SOURCE
    scope = "memory held by this process"
    device = "ram"
    refresh_s: float | None = None
    exact_edges = True
    max_power_w = 1000.0

    def __init__(
        self,
        watts: float = 0.392,
        low: float = 0.1,
        high: float = 0.8,
        *,
        clock: Callable[[], float] = time.perf_counter,
        resident: Callable[[], int] | None = None,
    ) -> None:
        if not 0 < low <= watts <= high < float("inf"):
            raise ClisonixError(
                f"RamModel needs 0 < low <= watts <= high in watts per GB; "
                f"given low={low}, watts={watts}, high={high}"
            )
        self._watts, self._clock, self._resident = watts, clock, resident or _resident
        self.parameters: dict[str, Any] = {
            "how": f"modelled from memory held ({watts:g} W per GB, {low:g}-{high:g} W)",
            "watts": watts,
            "low": low,
            "high": high,
        }
        self._at_s: float | None = None
        self._power_w = self._joules = 0.0

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`."""
        now_s = self._clock()
        power_w = self._resident() / 1e9 * self._watts
        if self._at_s is not None:
            self._joules += (power_w + self._power_w) / 2 * (now_s - self._at_s)
        self._at_s, self._power_w = now_s, power_w
        return now_s, self._joules


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError) as error:
        raise SensorLost(f"the memory held cannot be read: {error}", Reason.NOT_SUPPORTED.value) from error
