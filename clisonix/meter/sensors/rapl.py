"""The energy counters of Intel and AMD CPU packages, as Linux shows them under /sys/class/powercap.

Linux: https://www.kernel.org/doc/html/latest/power/powercap/powercap.html. Readable by root only since
CVE-2020-8694, and usually absent in virtual machines.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clisonix.meter.reasons import Reason
from clisonix.meter.sensors.sensor import SensorLost, Unavailable

REFRESH_S = 0.001
ROOT = Path("/sys/class/powercap")
FALLBACK_MAX_POWER_W = 1000.0
"""Above every package sold; used only where the kernel does not tell the limit."""


class RaplEnergy:
    """The counter of one package, or of the memory attached to one.

    The counter moves every millisecond or so, and a read is taken as current up to that grain. It starts again at
    `max_energy_range_uj`; reads at least once per range (a minute or more) are needed to notice each time.

    Args:
        folder: the domain's folder, holding `energy_uj`.
        kind: `cpu` or `dram`.
        clock: seconds; replaced in tests.
    """

    source = "rapl-counter"
    refresh_s: float | None = REFRESH_S
    exact_edges = True

    def __init__(self, folder: Path, kind: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._energy, self._clock, self._lock = folder / "energy_uj", clock, threading.Lock()
        package = folder.name.split(":")[1]
        self.name = f"rapl-{kind}:{package}"
        self.device = f"{kind}:{package}"
        self.scope = "DRAM" if kind == "dram" else "CPU package, all processes"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self.max_power_w = _limit_w(folder)
        self.parameters: dict[str, Any] = {"how": "measured by the RAPL energy counter", "range_uj": self._range_uj}
        self._last_uj = int(self._energy.read_text())
        self._wrapped_uj = 0

    def read(self) -> tuple[float, float]:
        """See `Sensor.read`."""
        with self._lock:
            before = self._clock()
            try:
                now_uj = int(self._energy.read_text())
            except PermissionError as error:
                raise SensorLost(f"{self._energy} cannot be read any more: {error}", Reason.PERMISSION) from error
            except (OSError, ValueError) as error:
                raise SensorLost(f"{self._energy} cannot be read: {error}", Reason.DEVICE_LOST) from error
            if now_uj < self._last_uj:
                self._wrapped_uj += self._range_uj
            self._last_uj = now_uj
            return (before + self._clock()) / 2, (self._wrapped_uj + now_uj) / 1e6


def detect_rapl(
    root: Path = ROOT, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[RaplEnergy], list[Unavailable]]:
    """Find the package and memory counters.

    Only whole packages count: `core` and `uncore` are parts of a package, `psys` contains it. A package that Linux
    shows twice, by registers (`intel-rapl`) and by memory (`intel-rapl-mmio`), counts once.

    Returns:
        The counters that can be read, and each that cannot with its reason.
    """
    sensors: list[RaplEnergy] = []
    missing: list[Unavailable] = []
    for kind, mirrors in _domains(root).values():
        failures: list[Unavailable] = []
        for folder in mirrors:
            opened = _open(folder, kind, clock)
            if isinstance(opened, RaplEnergy):
                sensors.append(opened)
                break
            failures.append(opened)
        else:
            missing.append(failures[0])
    if not sensors and not missing:
        missing.append(Unavailable("rapl", f"there is no RAPL counter under {root}", code=Reason.NO_SENSOR.value))
    return sensors, missing


def _domains(root: Path) -> dict[str, tuple[str, list[Path]]]:
    """Packages and memories by the name of the package, each with the folders that show it."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for folder in [*sorted(root.glob("intel-rapl:*")), *sorted(root.glob("intel-rapl-mmio:*"))]:
        label = _label(folder)
        if label.startswith("package"):
            found.setdefault(label, ("cpu", []))[1].append(folder)
        elif label == "dram":
            # Sub-domains are named `intel-rapl:0:2`; the kernel shows them beside and inside `intel-rapl:0`.
            parent = _label(folder.with_name(folder.name.rpartition(":")[0]))
            found.setdefault(f"{parent or folder.name}/dram", ("dram", []))[1].append(folder)
    return found


def _open(folder: Path, kind: str, clock: Callable[[], float]) -> RaplEnergy | Unavailable:
    try:
        return RaplEnergy(folder, kind, clock)
    except PermissionError:
        reason = f"permission denied: {folder}/energy_uj is for root only"
        return Unavailable(f"rapl-{folder.name}", reason, code=Reason.PERMISSION.value)
    except (OSError, ValueError) as error:
        return Unavailable(
            f"rapl-{folder.name}", f"{folder} cannot be read: {error}", code=Reason.NOT_SUPPORTED.value
        )


def _label(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _limit_w(folder: Path) -> float:
    # The short-term constraint allows the most; some kernels report 0 for "not known".
    for name in ("constraint_1_power_limit_uw", "constraint_0_max_power_uw", "constraint_0_power_limit_uw"):
        try:
            limit = int((folder / name).read_text()) / 1e6
        except (OSError, ValueError):
            continue
        if limit > 0:
            return 2 * limit  # firmware lets a package exceed its limit for some milliseconds
    return FALLBACK_MAX_POWER_W
