"""A meter's figures in Prometheus' text format, version 0.0.4.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (HELP and TYPE once for each metric, its lines
together, label values with escapes). What is unknown has no line: a 0 would be a claim.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

from clisonix.errors import ClisonixError
from clisonix.meter.emissions.carbon import amounts
from clisonix.meter.emissions.factors import Factor, carbon_factor
from clisonix.meter.energy import Energy
from clisonix.meter.following.live import DeviceNow
from clisonix.meter.meter import Meter
from clisonix.meter.recording.trace import Trace
from clisonix.meter.spans import seconds_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COST_SHARE = 0.01
"""Figures of windows read all samples: they are made anew only so often that this costs at most so much of a core."""

_KINDS = {
    "clisonix_energy_joules_total": ("counter", "Energy used since the meter started, in joules."),
    "clisonix_energy_joules_low": ("gauge", "Lower end of the 95 % interval of clisonix_energy_joules_total."),
    "clisonix_energy_joules_high": ("gauge", "Upper end of the 95 % interval of clisonix_energy_joules_total."),
    "clisonix_energy_seconds_total": ("counter", "The time that clisonix_energy_joules_total is of, in seconds."),
    "clisonix_power_watts": ("gauge", "Mean power of the last two seconds or so, in watts."),
    "clisonix_window_joules": ("gauge", "Energy of all openings of a window, all devices summed, in joules."),
    "clisonix_window_joules_low": ("gauge", "Lower end of the 95 % interval of clisonix_window_joules."),
    "clisonix_window_joules_high": ("gauge", "Upper end of the 95 % interval of clisonix_window_joules."),
    "clisonix_window_seconds": ("gauge", "Time spent in a window, in seconds."),
    "clisonix_window_open": ("gauge", "Whether the window is open now."),
    "clisonix_windows_left_out": ("gauge", "Window names that have no line, because there are too many."),
    "clisonix_co2e_grams": (
        "gauge",
        "CO2-equivalent of the energy so far at the place's published factor, in grams.",
    ),
    "clisonix_co2e_grams_low": ("gauge", "Lowest energy of its interval times the lowest factor of the place."),
    "clisonix_co2e_grams_high": ("gauge", "Highest energy of its interval times the highest factor of the place."),
    "clisonix_sensor_unavailable": ("gauge", "1 for a sensor that gives no value, with the reason."),
}


@dataclass
class _Page:
    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: float | None, labels: dict[str, str]) -> None:
        if value is None or not math.isfinite(value):
            return
        told = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        self.lines.setdefault(name, []).append(f"{name}{{{told}}} {value!r}" if told else f"{name} {value!r}")

    def text(self) -> str:
        found = []
        for name, (kind, about) in _KINDS.items():
            if name in self.lines:
                found += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *self.lines[name]]
        return "".join(f"{line}\n" for line in found)


class Exposition:
    """A meter's metrics as text.

    Args:
        meter: whose figures.
        levels: window names are cut after so many levels (`train/dense` of `train/dense/epoch-7`), so that a long
            run does not make ever more series; None leaves them whole.
        most: the first so many of these names have lines.

    Raises:
        ClisonixError: `levels` or `most` is out of range, or the meter's place is unknown.
    """

    def __init__(self, meter: Meter, levels: int | None = 2, most: int = 50) -> None:
        if (levels is not None and levels < 1) or most < 0:
            raise ClisonixError(f"window names need levels >= 1 and most >= 0; given levels={levels}, most={most}")
        self._meter, self._levels, self._most = meter, levels, most
        self._factor: Factor | None = None if meter.place is None else carbon_factor(meter.place)
        self._lock = threading.Lock()
        self._windows: list[tuple[str, float, dict[str, str]]] = []
        self._due_s = -math.inf

    def text(self) -> str:
        """The page as it is now."""
        page, live = _Page(), self._meter.live()
        for device in live.devices:
            self._device(page, device)
        self._carbon(page, live.energy)
        with self._lock:
            for line in self._window_lines():
                page.add(*line)
        for missing in self._meter.unavailable:
            labels = {"sensor": missing.sensor, "device": missing.device or "", "reason": missing.code}
            page.add("clisonix_sensor_unavailable", 1, labels)
        return page.text()

    def _device(self, page: _Page, device: DeviceNow) -> None:
        energy = device.energy
        labels = {
            "device": energy.device, "source": energy.source, "scope": energy.scope, "uuid": energy.uuid or "",
        }  # fmt: skip
        page.add("clisonix_energy_joules_total", energy.joules, labels)
        page.add("clisonix_energy_joules_low", energy.low, labels)
        page.add("clisonix_energy_joules_high", energy.high, labels)
        page.add("clisonix_energy_seconds_total", device.seconds if energy.joules is not None else None, labels)
        page.add("clisonix_power_watts", device.watts, labels)
        reason = device.lost or (energy.code if energy.joules is None else None)
        if reason is not None:
            labels = {"sensor": energy.source, "device": energy.device, "reason": reason}
            page.add("clisonix_sensor_unavailable", 1, labels)

    def _carbon(self, page: _Page, energy: Energy) -> None:
        factor = self._factor
        if factor is None:
            return
        grams, low, high = amounts(energy, factor.g_per_kwh, factor.low, factor.high)
        labels = {"place": factor.place, "source": energy.source}
        page.add("clisonix_co2e_grams", grams, labels)
        page.add("clisonix_co2e_grams_low", low, labels)
        page.add("clisonix_co2e_grams_high", high, labels)

    def _window_lines(self) -> list[tuple[str, float, dict[str, str]]]:
        began_s = time.perf_counter()
        if began_s >= self._due_s:
            self._windows = list(self._of_windows(self._meter.trace(fresh=False)))
            ended_s = time.perf_counter()
            self._due_s = ended_s + (ended_s - began_s) / COST_SHARE
        return self._windows

    def _of_windows(self, trace: Trace) -> list[tuple[str, float, dict[str, str]]]:
        names = list(dict.fromkeys("/".join(span.name.split("/")[: self._levels]) for span in trace.windows))
        still = [span.name for span in trace.windows if span.open]
        found: list[tuple[str, float, dict[str, str]]] = []
        for name in names[: self._most]:
            spans = trace.spans(name)
            energy = trace.energy_during(spans)
            named = {"window": name}
            for suffix, value in (("", energy.joules), ("_low", energy.low), ("_high", energy.high)):
                if value is not None:
                    found.append((f"clisonix_window_joules{suffix}", value, {**named, "source": energy.source}))
            found.append(("clisonix_window_seconds", seconds_of(spans), named))
            is_open = any(other == name or other.startswith(f"{name}/") for other in still)
            found.append(("clisonix_window_open", float(is_open), named))
        found.append(("clisonix_windows_left_out", float(max(0, len(names) - self._most)), {}))
        return found


def escape(text: str) -> str:
    """A label's value: backslash, quotation mark and line feed with a backslash."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
