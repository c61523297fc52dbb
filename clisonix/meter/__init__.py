"""Energy, carbon, run records, comparisons and reports: what a run cost, and how that is known."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clisonix.meter.carbon import Carbon, Embodied, Pue, carbon
    from clisonix.meter.compare import Comparison, Row, compare
    from clisonix.meter.conditions import conditions, node
    from clisonix.meter.cpu_model import CpuTimeModel
    from clisonix.meter.detect import detect
    from clisonix.meter.energy import Energy, best, modelled
    from clisonix.meter.factors import Factor, carbon_factor
    from clisonix.meter.gate import Gate, Judgement, gate
    from clisonix.meter.gate_text import gate_markdown, gate_table
    from clisonix.meter.idle import Split
    from clisonix.meter.intervals import mean_interval, t_quantile, wilson
    from clisonix.meter.live import DeviceNow, Live
    from clisonix.meter.machine import hardware, software
    from clisonix.meter.measure import MeasuredProgram, NotStartedError, measure
    from clisonix.meter.measured import Measurement, measured
    from clisonix.meter.merge import merge
    from clisonix.meter.meter import Meter
    from clisonix.meter.metrics_server import MetricsServer, serve_metrics
    from clisonix.meter.nvml import detect_nvml
    from clisonix.meter.nvml_counter import NvmlEnergy
    from clisonix.meter.nvml_samples import NvmlSamples
    from clisonix.meter.power_limit import restore_limits
    from clisonix.meter.predictions import Predictions, read_predictions
    from clisonix.meter.ram_model import RamModel
    from clisonix.meter.rapl import RaplEnergy, detect_rapl
    from clisonix.meter.reasons import Flag, Reason
    from clisonix.meter.record import Record, carbon_block, energy_block, file_entries, read_record, write_record
    from clisonix.meter.recorder import Recorder
    from clisonix.meter.replay import ReplaySensor, replay
    from clisonix.meter.report import render_html, render_markdown
    from clisonix.meter.rich_column import EnergyColumn
    from clisonix.meter.run_folder import RunFolder
    from clisonix.meter.scalars import energy_postfix, energy_scalars, tensorboard_log
    from clisonix.meter.sensor import Sensor, SensorInfo, SensorLost, Unavailable
    from clisonix.meter.series import Series
    from clisonix.meter.spans import Span
    from clisonix.meter.sweep import Sweep, SweepPoint, sweep_power
    from clisonix.meter.sweep_text import sweep_sentences, sweep_table
    from clisonix.meter.table import comparison_table
    from clisonix.meter.trace import Attempts, Trace, combine
    from clisonix.meter.verify import Finding, verify
    from clisonix.meter.window import Window
    from clisonix.meter.window_log import JsonlLog

_HOMES = {
    "carbon": "Carbon Embodied Pue carbon",
    "compare": "Comparison Row compare",
    "conditions": "conditions node",
    "cpu_model": "CpuTimeModel",
    "detect": "detect",
    "energy": "Energy best modelled",
    "factors": "Factor carbon_factor",
    "gate": "Gate Judgement gate",
    "gate_text": "gate_markdown gate_table",
    "idle": "Split",
    "intervals": "mean_interval t_quantile wilson",
    "live": "DeviceNow Live",
    "machine": "hardware software",
    "measure": "MeasuredProgram NotStartedError measure",
    "measured": "Measurement measured",
    "merge": "merge",
    "meter": "Meter",
    "metrics_server": "MetricsServer serve_metrics",
    "nvml": "detect_nvml",
    "nvml_counter": "NvmlEnergy",
    "nvml_samples": "NvmlSamples",
    "power_limit": "restore_limits",
    "predictions": "Predictions read_predictions",
    "ram_model": "RamModel",
    "rapl": "RaplEnergy detect_rapl",
    "reasons": "Flag Reason",
    "record": "Record carbon_block energy_block file_entries read_record write_record",
    "recorder": "Recorder",
    "replay": "ReplaySensor replay",
    "report": "render_html render_markdown",
    "rich_column": "EnergyColumn",
    "run_folder": "RunFolder",
    "scalars": "energy_postfix energy_scalars tensorboard_log",
    "sensor": "Sensor SensorInfo SensorLost Unavailable",
    "series": "Series",
    "spans": "Span",
    "sweep": "Sweep SweepPoint sweep_power",
    "sweep_text": "sweep_sentences sweep_table",
    "table": "comparison_table",
    "trace": "Attempts Trace combine",
    "verify": "Finding verify",
    "window": "Window",
    "window_log": "JsonlLog",
}
"""Which file holds what; each is loaded when one of its names is first used, for most programs need few."""
_FILES = {name: file for file, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Attempts",
    "Carbon",
    "Comparison",
    "CpuTimeModel",
    "DeviceNow",
    "Embodied",
    "Energy",
    "EnergyColumn",
    "Factor",
    "Finding",
    "Flag",
    "Gate",
    "JsonlLog",
    "Judgement",
    "Live",
    "MeasuredProgram",
    "Measurement",
    "Meter",
    "MetricsServer",
    "NotStartedError",
    "NvmlEnergy",
    "NvmlSamples",
    "Predictions",
    "Pue",
    "RamModel",
    "RaplEnergy",
    "Reason",
    "Record",
    "Recorder",
    "ReplaySensor",
    "Row",
    "RunFolder",
    "Sensor",
    "SensorInfo",
    "SensorLost",
    "Series",
    "Span",
    "Split",
    "Sweep",
    "SweepPoint",
    "Trace",
    "Unavailable",
    "Window",
    "best",
    "carbon",
    "carbon_block",
    "carbon_factor",
    "combine",
    "compare",
    "comparison_table",
    "conditions",
    "detect",
    "detect_nvml",
    "detect_rapl",
    "energy_block",
    "energy_postfix",
    "energy_scalars",
    "file_entries",
    "gate",
    "gate_markdown",
    "gate_table",
    "hardware",
    "mean_interval",
    "measure",
    "measured",
    "merge",
    "modelled",
    "node",
    "read_predictions",
    "read_record",
    "render_html",
    "render_markdown",
    "replay",
    "restore_limits",
    "serve_metrics",
    "software",
    "sweep_power",
    "sweep_sentences",
    "sweep_table",
    "t_quantile",
    "tensorboard_log",
    "verify",
    "wilson",
    "write_record",
]


class _Table(ModuleType):
    # Python binds a file to its package when it is first imported; `compare` and others are functions of that name.
    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _FILES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Table


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
