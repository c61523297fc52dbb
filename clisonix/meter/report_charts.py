"""The two charts of a run's report: power over time, and quality against energy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.meter.charts import Line, line_chart
from clisonix.meter.energy import MODELLED
from clisonix.meter.record import Record, inside
from clisonix.meter.trace import Trace

BINS = 160


def power_chart(folder: Path, record: Record) -> dict[str, Any]:
    """Mean power of each sensor over the run; attempts follow one another without the pause between them.

    Returns:
        `svg`, `legend` (labels in the order of the colours) and `note`; the note says why a chart is missing.
    """
    try:
        traces = [Trace.load(inside(folder, attempt["trace"])) for attempt in record.attempts]
    except (ClisonixError, KeyError) as error:
        return {"svg": "", "legend": [], "note": f"No chart: {error}"}
    points: dict[str, tuple[list[float], list[float | None]]] = {}
    offset_s, total_s = 0.0, sum(_reach(trace)[1] for trace in traces)
    for trace in traces:
        start_s, length_s = _reach(trace)
        for series in trace.series:
            if len(series.t_s) < 3 or length_s <= 0:
                continue
            bins = max(2, round(BINS * length_s / total_s))
            # A bin shorter than the counter's refresh would show its ticks, not the load.
            shortest_s = 2 * max(series.info.refresh_s or 0.0, float(np.median(np.diff(series.t_s))))
            bins = max(2, min(bins, int(length_s / shortest_s))) if shortest_s > 0 else bins
            edges = np.linspace(series.t_s[0], series.t_s[-1], bins + 1)
            label = f"{series.info.device} ({'modelled' if series.info.source == MODELLED else 'measured'})"
            x, y = points.setdefault(label, ([], []))
            x += [float(t) for t in (edges[:-1] + edges[1:]) / 2 - start_s + offset_s] + [math.nan]
            y += [float(w) for w in series.counter.power_w(edges)] + [None]
        offset_s += length_s
    lines = [Line(label, x, y) for label, (x, y) in points.items()]
    svg = line_chart(lines, "time, s", "power, W", "Power over time", from_zero=True)
    note = "" if svg else "No chart: no sensor gave enough samples."
    return {"svg": svg, "legend": [line.label for line in lines], "note": note}


def learning_chart(folder: Path, record: Record) -> dict[str, Any]:
    """Quality after each epoch against the energy spent so far, or against the epoch where energy is unknown."""
    epochs = _epochs(Path(folder) / "log.jsonl")
    if not epochs:
        return {"svg": "", "legend": [], "note": "No chart: log.jsonl has no epoch."}
    metric = "accuracy" if any(_finite(e.get("accuracy")) is not None for e in epochs) else "loss"
    joules = [_finite(epoch.get("joules")) for epoch in epochs]
    spent: list[float] = []
    for value in joules:
        spent.append((spent[-1] if spent else 0.0) + (value or 0.0))
    known = None not in joules
    factor, unit = (1000.0, "kJ") if known and spent[-1] >= 1e4 else (1.0, "J")
    phases: dict[str, tuple[list[float], list[float | None]]] = {}
    for i, epoch in enumerate(epochs):
        x, y = phases.setdefault(str(epoch.get("phase", "train")), ([], []))
        x.append(spent[i] / factor if known else float(i + 1))
        y.append(_finite(epoch.get(metric)))
    lines = [Line(phase, x, y, dots=True) for phase, (x, y) in phases.items()]
    x_label = f"energy so far, {unit}" if known else "epoch"
    svg = line_chart(lines, x_label, metric, f"{metric} against {x_label}")
    note = "" if known else "Some epochs have no energy figure, so the axis counts epochs."
    return {"svg": svg, "legend": list(phases), "note": note if svg else f"No chart: no epoch has a finite {metric}."}


def _reach(trace: Trace) -> tuple[float, float]:
    sampled = [series.t_s for series in trace.series if len(series.t_s)]
    if not sampled:
        return 0.0, 0.0
    start_s = min(float(t_s[0]) for t_s in sampled)
    return start_s, max(float(t_s[-1]) for t_s in sampled) - start_s


def _epochs(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a killed run leaves a torn last line
            continue
        if isinstance(event, dict) and event.get("event") == "epoch":
            found.append(event)
    return found


def _finite(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]
