"""Energy, carbon, run records, comparisons and reports: what a run cost, and how that is known."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clisonix.meter.comparing.compare import Comparison, Row, compare
    from clisonix.meter.comparing.gate import Gate, Judgement, gate
    from clisonix.meter.comparing.gate_text import gate_markdown, gate_table
    from clisonix.meter.comparing.intervals import mean_interval, t_quantile, wilson
    from clisonix.meter.comparing.table import comparison_table
    from clisonix.meter.decorator import Measurement, measured
    from clisonix.meter.emissions.carbon import Carbon, Embodied, Pue, carbon
    from clisonix.meter.emissions.factors import Factor, carbon_factor
    from clisonix.meter.energy import Energy, best, modelled
    from clisonix.meter.estimation.series import Series
    from clisonix.meter.following.live import DeviceNow, Live
    from clisonix.meter.following.metrics_server import MetricsServer, serve_metrics
    from clisonix.meter.following.rich_column import EnergyColumn
    from clisonix.meter.following.scalars import energy_postfix, energy_scalars, tensorboard_log
    from clisonix.meter.following.window_log import JsonlLog
    from clisonix.meter.idle import Split
    from clisonix.meter.meter import Meter
    from clisonix.meter.power.power_limit import restore_limits
    from clisonix.meter.power.sweep import Sweep, SweepPoint, sweep_power
    from clisonix.meter.power.sweep_text import sweep_sentences, sweep_table
    from clisonix.meter.program import MeasuredProgram, NotStartedError, measure
    from clisonix.meter.reasons import Flag, Reason
    from clisonix.meter.recorder import Recorder
    from clisonix.meter.recording.conditions import conditions, node
    from clisonix.meter.recording.machine import hardware, software
    from clisonix.meter.recording.merge import merge
    from clisonix.meter.recording.predictions import Predictions, read_predictions
    from clisonix.meter.recording.record import (
        Record,
        carbon_block,
        energy_block,
        file_entries,
        read_record,
        write_record,
    )
    from clisonix.meter.recording.run_folder import RunFolder
    from clisonix.meter.recording.trace import Attempts, Trace, combine
    from clisonix.meter.recording.verify import Finding, verify
    from clisonix.meter.reporting.report import render_html, render_markdown
    from clisonix.meter.sensors.cpu_model import CpuTimeModel
    from clisonix.meter.sensors.detect import detect
    from clisonix.meter.sensors.nvml import detect_nvml
    from clisonix.meter.sensors.nvml_counter import NvmlEnergy
    from clisonix.meter.sensors.nvml_samples import NvmlSamples
    from clisonix.meter.sensors.ram_model import RamModel
    from clisonix.meter.sensors.rapl import RaplEnergy, detect_rapl
    from clisonix.meter.sensors.replay import ReplaySensor, replay
    from clisonix.meter.sensors.sensor import Sensor, SensorInfo, SensorLost, Unavailable
    from clisonix.meter.spans import Span
    from clisonix.meter.window import Window

_HOMES = {
    "emissions.carbon": "Carbon Embodied Pue carbon",
    "comparing.compare": "Comparison Row compare",
    "recording.conditions": "conditions node",
    "sensors.cpu_model": "CpuTimeModel",
    "sensors.detect": "detect",
    "energy": "Energy best modelled",
    "emissions.factors": "Factor carbon_factor",
    "comparing.gate": "Gate Judgement gate",
    "comparing.gate_text": "gate_markdown gate_table",
    "idle": "Split",
    "comparing.intervals": "mean_interval t_quantile wilson",
    "following.live": "DeviceNow Live",
    "recording.machine": "hardware software",
    "program": "MeasuredProgram NotStartedError measure",
    "decorator": "Measurement measured",
    "recording.merge": "merge",
    "meter": "Meter",
    "following.metrics_server": "MetricsServer serve_metrics",
    "sensors.nvml": "detect_nvml",
    "sensors.nvml_counter": "NvmlEnergy",
    "sensors.nvml_samples": "NvmlSamples",
    "power.power_limit": "restore_limits",
    "recording.predictions": "Predictions read_predictions",
    "sensors.ram_model": "RamModel",
    "sensors.rapl": "RaplEnergy detect_rapl",
    "reasons": "Flag Reason",
    "recording.record": "Record carbon_block energy_block file_entries read_record write_record",
    "recorder": "Recorder",
    "sensors.replay": "ReplaySensor replay",
    "reporting.report": "render_html render_markdown",
    "following.rich_column": "EnergyColumn",
    "recording.run_folder": "RunFolder",
    "following.scalars": "energy_postfix energy_scalars tensorboard_log",
    "sensors.sensor": "Sensor SensorInfo SensorLost Unavailable",
    "estimation.series": "Series",
    "spans": "Span",
    "power.sweep": "Sweep SweepPoint sweep_power",
    "power.sweep_text": "sweep_sentences sweep_table",
    "comparing.table": "comparison_table",
    "recording.trace": "Attempts Trace combine",
    "recording.verify": "Finding verify",
    "window": "Window",
    "following.window_log": "JsonlLog",
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


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
