"""Energy, carbon, run records, comparisons and reports: what a run cost, and how that is known."""

from __future__ import annotations

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
from clisonix.meter.machine import hardware, software
from clisonix.meter.merge import merge
from clisonix.meter.meter import Meter
from clisonix.meter.nvml import detect_nvml
from clisonix.meter.nvml_counter import NvmlEnergy
from clisonix.meter.nvml_samples import NvmlSamples
from clisonix.meter.predictions import Predictions, read_predictions
from clisonix.meter.ram_model import RamModel
from clisonix.meter.rapl import RaplEnergy, detect_rapl
from clisonix.meter.reasons import Flag, Reason
from clisonix.meter.record import (
    Record,
    carbon_block,
    energy_block,
    file_entries,
    read_record,
    write_record,
)
from clisonix.meter.recorder import Recorder
from clisonix.meter.replay import ReplaySensor, replay
from clisonix.meter.report import render_html, render_markdown
from clisonix.meter.sensor import Sensor, SensorInfo, SensorLost, Unavailable
from clisonix.meter.series import Series
from clisonix.meter.spans import Span
from clisonix.meter.table import comparison_table
from clisonix.meter.trace import Attempts, Trace, combine
from clisonix.meter.verify import Finding, verify
from clisonix.meter.window import Window

__all__ = [
    "Attempts",
    "Carbon",
    "Comparison",
    "CpuTimeModel",
    "Embodied",
    "Energy",
    "Factor",
    "Finding",
    "Flag",
    "Gate",
    "Judgement",
    "Meter",
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
    "Sensor",
    "SensorInfo",
    "SensorLost",
    "Series",
    "Span",
    "Split",
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
    "file_entries",
    "gate",
    "gate_markdown",
    "gate_table",
    "hardware",
    "mean_interval",
    "merge",
    "modelled",
    "node",
    "read_predictions",
    "read_record",
    "render_html",
    "render_markdown",
    "replay",
    "software",
    "t_quantile",
    "verify",
    "wilson",
    "write_record",
]
