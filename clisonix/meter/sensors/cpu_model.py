"""CPU energy modelled from the CPU time of this process and its children, where no counter can be read.

Coefficients: Cloud Carbon Footprint, https://www.cloudcarbonfootprint.org/docs/methodology/ (Appendix I and
the per-processor table; SPECpower measurements of servers, per hardware thread). Idle and full load: AWS 0.74
and 3.5 W, GCP 0.71 and 4.26 W, Azure 0.78 and 3.76 W. Busy minus idle is 2.76, 3.55 and 2.98 W: mean 3.1 W.
The lowest busy-minus-idle of a processor in its table is 1.2 W (EPYC 2nd generation, 0.47 and 1.69 W), the
highest full load 8.6 W (Sandy Bridge).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from clisonix.errors import ClisonixError
from clisonix.meter.energy import MODELLED
from clisonix.meter.sensors.processes import ProcessTime


class CpuTimeModel:
    """Busy time of this process and the processes it started, times watts per busy hardware thread.

    Not included: idle power, memory, and other processes.

    Args:
        watts: what one busy hardware thread adds, in watts.
        low: lower bound of that, 95 % interval.
        high: upper bound.
        clock: seconds; replaced in tests.
        cpu_clock: CPU seconds of what is counted; None counts this process and its descendants.

    Raises:
        ClisonixError: not 0 < low <= watts <= high.
    """

    name = "cpu-time"
    source = MODELLED
    scope = "CPU busy time of this process and its children"
    device = "cpu"
    refresh_s: float | None = None
    exact_edges = True

    def __init__(
        self,
        watts: float = 3.1,
        low: float = 1.2,
        high: float = 8.6,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        if not 0 < low <= watts <= high < float("inf"):
            raise ClisonixError(
                f"CpuTimeModel needs 0 < low <= watts <= high in watts per busy hardware thread; "
                f"given low={low}, watts={watts}, high={high}"
            )
        self._watts, self._clock, self._cpu_clock = watts, clock, cpu_clock or ProcessTime(clock)
        self.max_power_w = watts * (os.cpu_count() or 1)
        self.parameters: dict[str, Any] = {
            "how": f"modelled from CPU time ({watts:g} W per busy hardware thread, {low:g}-{high:g} W; "
            "no idle share, no memory; child processes are counted)",
            "watts": watts,
            "low": low,
            "high": high,
        }

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`. Joules are at the central coefficient: divide by `watts` for CPU seconds."""
        before = self._clock()
        cpu_s = self._cpu_clock()
        return (before + self._clock()) / 2, cpu_s * self._watts
