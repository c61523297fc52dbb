"""Write docs/results/training.md from the record of `time_to_quality.py`: no figure on the page is typed by hand.

python scripts/bench/results_training.py docs/results/time_to_quality.json docs/results/training.md
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from clisonix.files import read_json, write_bytes
from clisonix.meter.comparing.intervals import mean_interval

BASE = "dense-adamw"
MARGIN_POINTS = 0.5
LEAST_PAIRS = 3  # an interval from two says nothing
GOALS = {"time": 0.60, "model bytes": 0.30, "energy": 0.70, "peak memory": 0.60}
Runs = list[dict[str, Any]]
Cell = tuple[str, int, int]


def summarise(runs: Runs) -> dict[str, Any]:
    """By task and contender, paired with dense AdamW in the same (seed, fold)."""
    by: dict[str, dict[str, dict[tuple[int, int], dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        by[run["task"]][run["name"]][run["seed"], run["fold"]] = run
    return {task: _task(sides) for task, sides in by.items() if BASE in sides}


def _task(sides: dict[str, dict[tuple[int, int], dict[str, Any]]]) -> dict[str, Any]:
    base = sides[BASE]
    folds = {fold for _, fold in base}
    targets = {f: statistics.fmean(_final(run) for (_, g), run in base.items() if g == f) for f in folds}
    found: dict[str, Any] = {"targets": {str(f): t for f, t in sorted(targets.items())}, "contenders": {}}
    for name, cells in sorted(sides.items(), key=lambda side: side[0] != BASE):
        pairs = [(base[key], run) for key, run in sorted(cells.items()) if key in base]
        if not pairs:
            continue
        reached = [(reach(a, targets[a["fold"]]), reach(b, targets[b["fold"]])) for a, b in pairs]
        both = [(a, b) for a, b in reached if a and b]
        found["contenders"][name] = {
            "runs": len(pairs),
            "quality_percent": _interval([100 * _final(b) for _, b in pairs]),
            "points": _interval([100 * (_final(b) - _final(a)) for a, b in pairs]),
            "reached": sum(b is not None for _, b in reached),
            "base_reached": sum(a is not None for a, _ in reached),
            "paired": len(both),
            "time_to_target": _ratio([(a["cpu_s"], b["cpu_s"]) for a, b in both]),
            "energy_to_target": _ratio([(a["joules"], b["joules"]) for a, b in both]),
            "time_of_runs": _ratio([(a["curve"][-1]["cpu_s"], b["curve"][-1]["cpu_s"]) for a, b in pairs]),
            "energy_of_runs": _ratio([(a["curve"][-1]["joules"], b["curve"][-1]["joules"]) for a, b in pairs]),
            "peak": _ratio([(a["peak_rise_bytes"], b["peak_rise_bytes"]) for a, b in pairs]),
            "bytes": _ratio([(a["model_bytes"], b["model_bytes"]) for a, b in pairs]),
            "state": _ratio([(a["state_bytes"], b["state_bytes"]) for a, b in pairs]),
            "seconds": statistics.median(b["curve"][-1]["cpu_s"] for _, b in pairs),
            "wall_seconds": statistics.median(b["curve"][-1]["wall_s"] for _, b in pairs),
            "start_seconds": statistics.median(b["start_s"] for _, b in pairs),
            "epochs": statistics.median(b["curve"][-1]["epoch"] for _, b in pairs),
            "parameters": pairs[0][1]["parameters"],
            "width": pairs[0][1]["width"],
            "energy_how": pairs[0][1]["energy_how"],
        }
    return found


def reach(run: dict[str, Any], target: float) -> dict[str, float] | None:
    """The first look that, with the one before it, is on average at the target."""
    looks = run["curve"]
    for before, now in pairwise(looks):
        if (before["quality"] + now["quality"]) / 2 >= target:
            found: dict[str, float] = now
            return found
    return None


def _final(run: dict[str, Any]) -> float:
    return float(run["curve"][-1]["quality"])


def _interval(values: list[float]) -> dict[str, float | None]:
    if len(values) < LEAST_PAIRS:
        return {"mean": math.fsum(values) / len(values), "low": None, "high": None}
    mean, low, high = mean_interval(values)
    return {"mean": mean, "low": low, "high": high}


def _ratio(pairs: list[tuple[float, float]]) -> dict[str, float | None] | None:
    """Of the second to the first: geometric mean and its interval."""
    logs = [math.log(b / a) for a, b in pairs if a > 0 and b > 0]
    if not logs:
        return None
    return {key: None if v is None else math.exp(v) for key, v in _interval(logs).items()}


def write_page(source: Path, target: Path) -> None:
    """The page of one record."""
    record = read_json(source)
    record["summary"] = summarise(record["runs"])
    lines = [
        "# Time to quality",
        "",
        f"Written by `scripts/bench/results_training.py` from `{source.name}`, which holds every run, its settings and",
        "its whole curve. Size: "
        + f"`{record['size']}`. Ratios are paired with dense AdamW in the same (seed, fold):",
        "geometric means with 95 % intervals from three pairs on (Student's t; folds of the same people are not independent,",
        "so the intervals are somewhat too narrow). Quality is in percent: accuracy, for `p300` the area under the ROC",
        "curve. Below 1 is better.",
        "",
        *_protocol(record),
    ]
    for task, found in record["summary"].items():
        lines += _section(task, found, record)
    lines += _verdict(record)
    lines += _what_ran(record, source, target)
    write_bytes(target, ("\n".join(lines) + "\n").encode())


def _protocol(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    return [
        "- Searched on fold 0, which is not scored: three learning rates, up to three more while the best is at the edge,",
        "  then the best one for half the epochs, which is taken if it loses at most 0.5 points; the same rule for each",
        "  contender. People of the scored folds are in the training side of that search. Going on past the edge was added",
        "  after three folds of `watch` had been seen once with three rates.",
        "- Target of a fold: the mean final quality of dense AdamW over the seeds. Four looks an epoch; reached at the first",
        "  that, with the one before it, is on average there.",
        "- Time is processor time on one thread, looks at the held-out side left out. Energy is",
        f"  {record['runs'][0]['energy_how']};",
        "  its ratio is therefore one of processor time. Memory is the rise of the process's peak during training.",
        f"- {machine['hardware']['cpu']}, torch {machine['software']['torch']}; nothing was compiled"
        + (" ahead." if not record["runs"][0]["compiled"] else ", except by torch.compile on all sides."),
        "",
    ]


def _section(task: str, found: dict[str, Any], record: dict[str, Any]) -> list[str]:
    chosen = {name: next(r for r in runs if r["chosen"]) for name, runs in record["search"][task].items()}
    lines = [
        f"## {task}",
        "",
        f"Targets by fold: {', '.join(f'{100 * t:.1f}' for t in found['targets'].values())} %.",
        "",
        "| contender | parameters | rate | epochs | pairs | quality, % | − dense AdamW, points | target reached |"
        " time to target | energy to target | time of the run | model bytes | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, c in found["contenders"].items():
        cells = [
            name, f"{c['parameters']:,}", f"{chosen[name]['rate']:g}", f"{c['epochs']:g}", str(c["runs"]),
            _span(c["quality_percent"], 1), _span(c["points"], 2), f"{c['reached']} of {c['runs']}",
            _times(c["time_to_target"]), _times(c["energy_to_target"]), _times(c["time_of_runs"]),
            _times(c["bytes"], short=True), _times(c["peak"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    seconds = ", ".join(f"{n} {c['seconds']:.0f}" for n, c in found["contenders"].items())
    return [
        *lines,
        "",
        f"Median seconds of a whole run: {seconds}. Time to target counts pairs in which both reach it.",
        "",
    ]


def _verdict(record: dict[str, Any]) -> list[str]:
    """Ours against what was promised, and against the small twins; what did not help."""
    tasks = {t: f["contenders"] for t, f in record["summary"].items() if "ours" in f["contenders"]}
    if not tasks:
        return []
    lines = ["## What was promised", "", "| | ours | must |", "|---|---|---|"]
    keys = {"time": "time_to_target", "model bytes": "bytes", "energy": "energy_to_target", "peak memory": "peak"}
    for what, key in keys.items():
        known = {t: c["ours"][key]["mean"] for t, c in tasks.items() if c["ours"][key]}
        mean = math.exp(statistics.fmean(math.log(v) for v in known.values())) if known else math.nan
        verdict = "kept" if len(known) == len(tasks) and mean <= GOALS[what] else "not kept"
        shown = f"{mean:.2f}× ({', '.join(known)})" if known else "the target was not reached"
        lines.append(f"| {what}, geometric mean | {shown} | ≤ {GOALS[what]:.2f}×: {verdict} |")
    for task, c in tasks.items():
        low = c["ours"]["points"]["low"]
        verdict = "not shown (too few pairs)" if low is None else "shown" if low >= -MARGIN_POINTS else "not shown"
        lines.append(
            f"| quality on {task}, points | {_span(c['ours']['points'], 2)} | non-inferior by {MARGIN_POINTS}: {verdict} |"
        )
    lines += [
        "",
        "Time and energy are conditional on reaching the target: where ours reaches it less often than dense AdamW,",
    ]
    lines += [
        "they flatter it. The table of each task says how often.",
        "",
        "## What did not help, and where small dense models win",
        "",
    ]
    for task, c in tasks.items():
        ours = c["ours"]
        for name in (n for n in c if n.startswith("twin")):
            lines.append(_against(task, ours, name, c[name]))
        for name in (n for n in c if n.startswith("ours-")):
            lines.append(
                f"- {task}, {name}: {_span(c[name]['points'], 2)} points and {_times(c[name]['time_of_runs'])} the time of "
                f"dense AdamW; ours {_span(ours['points'], 2)} and {_times(ours['time_of_runs'])}."
            )
    return [*lines, ""]


def _against(task: str, ours: dict[str, Any], name: str, twin: dict[str, Any]) -> str:
    apart = ours["quality_percent"]["mean"] - twin["quality_percent"]["mean"]
    cheaper = ours["time_of_runs"]["mean"] / twin["time_of_runs"]["mean"]
    better = "on the frontier" if apart >= 0 or cheaper < 1 else "beaten by it: less accurate and not faster"
    return f"- {task}: ours is {apart:+.2f} points from {name} at {cheaper:.2f}× its time (width {twin['width']}): {better}."


def _what_ran(record: dict[str, Any], source: Path, target: Path) -> list[str]:
    asked = record["asked"]
    seeds = {t: len({r["seed"] for r in record["runs"] if r["task"] == t}) for t in record["summary"]}
    ran = "; ".join(
        f"{t}: {seeds[t]} of {asked['seeds']} seeds, folds "
        f"{', '.join(map(str, sorted({r['fold'] for r in record['runs'] if r['task'] == t})))}"
        for t in record["summary"]
    )
    missing = [t for t in ("fsdd", "watch", "p300", "three clinics") if t not in record["summary"]]
    sizes = [] if record["size"] == "reference" else ["the size `reference`"]
    return [
        "## What has been run",
        "",
        f"{len(record['runs'])} scored runs ({ran}). Not run: {', '.join([*missing, *sizes, 'a GPU'])}.",
        "The command goes on where it was interrupted:",
        "",
        "```bash",
        f"python scripts/bench/time_to_quality.py --tasks {' '.join(asked['tasks'])} --size {record['size']} "
        f"--seeds {asked['seeds']} \\",
        f"    --contenders {' '.join(asked['contenders'])} \\",
        f"    --data DIR --work DIR --out docs/results/{source.name} --page docs/results/{target.name}",
        "```",
    ]


def _span(found: dict[str, float | None], digits: int) -> str:
    mean, low, high = found["mean"], found["low"], found["high"]
    assert mean is not None
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _times(found: dict[str, float | None] | None, *, short: bool = False) -> str:
    if found is None:
        return "–"
    return f"{found['mean']:.2f}×" if short else f"{_span(found, 2)}×"


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
