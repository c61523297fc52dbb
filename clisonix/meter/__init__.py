"""Energy, carbon, run records, comparisons and reports: what a run cost, and how that is known."""

from __future__ import annotations

from clisonix.meter.carbon import Carbon, Factor, carbon, carbon_factor
from clisonix.meter.compare import Comparison, Row, compare
from clisonix.meter.cpu_model import CpuTimeModel
from clisonix.meter.detect import detect
from clisonix.meter.energy import Energy, best
from clisonix.meter.intervals import mean_interval, t_quantile, welch_interval, wilson
from clisonix.meter.machine import hardware, software
from clisonix.meter.meter import Meter
from clisonix.meter.nvml import NvmlEnergy, detect_nvml
from clisonix.meter.predictions import Predictions, read_predictions
from clisonix.meter.rapl import RaplEnergy, detect_rapl
from clisonix.meter.record import (
    Record,
    carbon_block,
    energy_block,
    file_entries,
    read_record,
    write_record,
)
from clisonix.meter.recorder import Recorder
from clisonix.meter.report import render_html, render_markdown
from clisonix.meter.sensor import Sensor, SensorInfo, SensorLost, Unavailable
from clisonix.meter.spans import Span
from clisonix.meter.table import comparison_table
from clisonix.meter.trace import Attempts, Series, Trace, combine
from clisonix.meter.verify import Finding, verify

__all__ = [
    "Attempts",
    "Carbon",
    "Comparison",
    "CpuTimeModel",
    "Energy",
    "Factor",
    "Finding",
    "Meter",
    "NvmlEnergy",
    "Predictions",
    "RaplEnergy",
    "Record",
    "Recorder",
    "Row",
    "Sensor",
    "SensorInfo",
    "SensorLost",
    "Series",
    "Span",
    "Trace",
    "Unavailable",
    "best",
    "carbon",
    "carbon_block",
    "carbon_factor",
    "combine",
    "compare",
    "comparison_table",
    "detect",
    "detect_nvml",
    "detect_rapl",
    "energy_block",
    "file_entries",
    "hardware",
    "mean_interval",
    "read_predictions",
    "read_record",
    "render_html",
    "render_markdown",
    "software",
    "t_quantile",
    "verify",
    "welch_interval",
    "wilson",
    "write_record",
]
