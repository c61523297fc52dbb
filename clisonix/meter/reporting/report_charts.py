"""The two charts of a run's report: power over time, and quality against energy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.meter.energy import modelled
from clisonix.meter.estimation.series import Series
from clisonix.meter.recording.account import account_of
from clisonix.meter.recording.merged_account import Merged
from clisonix.meter.recording.record import Record, inside
from clisonix.meter.recording.trace import Trace
from clisonix.meter.reporting.charts import Line, line_chart

BINS = 160
LINES = 6
"""As many as the colours of the page tell apart."""


def power_chart(folder: Path, record: Record) -> dict[str, Any]:
    """Mean power of each device over the run.

    Attempts follow one another without the pause between them; parts of a merged run lie as their clocks say.

    Returns:
        `svg`, `legend` (labels in the order of the colours) and `note`; the note says why a chart is missing.
    """
    try:
        account = account_of(folder, record)
    except (ClisonixError, KeyError) as error:
        return {"svg": "", "legend": [], "note": f"No chart: {error}"}
    tracks = account.watched() if isinstance(account, Merged) else _in_a_row(account.traces)
    tracks = [track for track in tracks if len(track[1].t_s) >= 3 and track[1].t_s[-1] > track[1].t_s[0]]
    # Power samples are a second opinion: they are drawn only where no counter is.
    counted = {device for device, series, _ in tracks if not series.info.source.endswith("-samples")}
    tracks = [t for t in tracks if not t[1].info.source.endswith("-samples") or t[0] not in counted]
    points: dict[str, tuple[list[float], list[float | None]]] = {}
    origin_s = min((shift + float(series.t_s[0]) for _, series, shift in tracks), default=0.0)
    total_s = max((shift + float(series.t_s[-1]) for _, series, shift in tracks), default=0.0) - origin_s
    for device, series, shift in tracks:
        length_s = float(series.t_s[-1] - series.t_s[0])
        bins = max(2, round(BINS * length_s / total_s))
        # A bin shorter than the counter's refresh would show its ticks, not the load.
        shortest_s = 2 * max(series.info.refresh_s or 0.0, float(np.median(np.diff(series.t_s))))
        bins = max(2, min(bins, int(length_s / shortest_s))) if shortest_s > 0 else bins
        edges = np.linspace(series.t_s[0], series.t_s[-1], bins + 1)
        x, y = points.setdefault(f"{device} ({'modelled' if modelled(series.info.source) else 'measured'})", ([], []))
        x += [float(t) for t in (edges[:-1] + edges[1:]) / 2 + shift - origin_s] + [math.nan]
        y += [float(w) for w in series.power_w(edges)] + [None]
    lines = [Line(label, x, y) for label, (x, y) in points.items()]
    lines.sort(key=lambda line: -sum(w for w in line.y if w is not None))
    svg = line_chart(lines[:LINES], "time, s", "power, W", "Power over time", from_zero=True)
    note = "" if svg else "No chart: no sensor gave enough samples."
    if len(lines) > LINES:
        note = f"The {len(lines) - LINES} devices that draw least are not drawn."
    return {"svg": svg, "legend": [line.label for line in lines[:LINES]], "note": note}


def _in_a_row(traces: list[Trace]) -> list[tuple[str, Series, float]]:
    """Device, series, and what to add to its times so that each trace begins where the one before ended."""
    found, end_s = [], 0.0
    for trace in traces:
        sampled = [series for series in trace.series if len(series.t_s)]
        if not sampled:
            continue
        start_s = min(float(series.t_s[0]) for series in sampled)
        found += [(series.info.device, series, end_s - start_s) for series in sampled]
        end_s += max(float(series.t_s[-1]) for series in sampled) - start_s
    return found


def learning_chart(folder: Path, record: Record) -> dict[str, Any]:
    """Quality after each epoch against the energy spent so far, or against the epoch where energy is unknown."""
    logs = [Path(folder) / "log.jsonl", *(inside(folder, f"{part['folder']}/log.jsonl") for part in record.parts)]
    epochs = next((found for path in logs if (found := _epochs(path))), [])
    if not epochs:
        return {"svg": "", "legend": [], "note": "No chart: log.jsonl has no epoch."}
    metric = "accuracy" if any(_finite(e.get("accuracy")) is not None for e in epochs) else "loss"
    joules = _joules(folder, record, epochs)
    spent: list[float] = []
    for value in joules:
        spent.append((spent[-1] if spent else 0.0) + (value or 0.0))
    known = None not in joules
    factor, unit = (1000.0, "kJ") if known and spent[-1] >= 1e4 else (1.0, "J")
    phases: dict[str, tuple[list[float], list[float | None]]] = {}
    for i, epoch in enumerate(epochs):
        if _finite(epoch.get(metric)) is None:
            continue  # not every epoch is evaluated; the others make one line
        x, y = phases.setdefault(str(epoch.get("phase", "train")), ([], []))
        x.append(spent[i] / factor if known else float(i + 1))
        y.append(_finite(epoch.get(metric)))
    lines = [Line(phase, x, y, dots=True) for phase, (x, y) in phases.items()]
    x_label = f"energy so far, {unit}" if known else "epoch"
    svg = line_chart(lines, x_label, metric, f"{metric} against {x_label}")
    note = "" if known else "Some epochs have no energy figure, so the axis counts epochs."
    return {"svg": svg, "legend": list(phases), "note": note if svg else f"No chart: no epoch has a finite {metric}."}


def _joules(folder: Path, record: Record, epochs: list[dict[str, Any]]) -> list[float | None]:
    """Energy of each epoch: of all parts, for a merged run, else as it was logged."""
    if not record.parts:
        return [_finite(epoch.get("joules")) for epoch in epochs]
    try:
        account = account_of(folder, record)
    except ClisonixError:
        return [None for _ in epochs]
    return [account.energy(f"train/{epoch.get('phase')}/epoch-{epoch.get('epoch')}").joules for epoch in epochs]


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
