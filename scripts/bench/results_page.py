"""Write docs/results/README.md from the raw records beside it: no figure on that page is typed by hand.

python scripts/bench/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results_fabric import woven
from results_liam import algebra

from clisonix.files import write_bytes

RESULTS = Path(__file__).parent.parent.parent / "docs/results"
SPLITS = {
    "ssvep": "one of 6 runs held out",
    "fsdd": "takes 0-4 held out",
    "watch": "2 of 10 people held out, 5 folds",
}


def main() -> None:
    found = {
        p.stem.removeprefix("quality-"): json.loads(p.read_text()) for p in sorted(RESULTS.glob("quality-*.json"))
    }
    lines = [
        "# Results",
        "",
        "Written by `scripts/bench/results_page.py` from the JSON files of this folder, which hold every run.",
        "",
        "## Dense model and compressed twin",
        "",
        "The same number of epochs on both sides; the twin spends the first quarter of them dense, is compressed to 0.3",
        "of the dense file, and goes on in its compressed form. Its time and energy include all three. Both sides of a",
        "(seed, fold) ran one after the other, in alternating order. 95 % intervals over seeds (Student's t).",
        "",
        "| task | split | dense, % | twin, % | twin − dense, points | bytes | time | energy | longest dense run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, content in found.items():
        s = content["summary"]
        cells = [
            task,
            SPLITS.get(task, ""),
            span(s["accuracy_dense_percent"], 1, most=100),
            span(s["accuracy_twin_percent"], 1, most=100),
            span(s["twin_minus_dense_points"], 2),
            f"{s['bytes_ratio']:.3f}×",
            span(s["time_ratio"], 2) + "×",
            span(s["energy_ratio"], 2) + "×",
            f"{s['longest_dense_s']:.0f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for task, content in found.items():
        machine, s = content["machine"], content["summary"]
        lines += [
            "",
            f"`{task}`: {s['seeds']} seeds, {len(content['runs'])} runs on {machine['hardware']['cpu']}, "
            f"{machine['hardware']['threads']} threads, torch {machine['software']['torch']}. "
            f"Energy {s['energy_how']}; its ratio is therefore one of CPU time.",
        ]
    lines += [
        "",
        "Accuracy intervals say how seeds differ, not how other people or recordings would: the test sides are small.",
        "At this size a low-rank layer saves bytes, not time: its two small products cost a CPU as much as one.",
        "",
        "```bash",
        *(
            f"python scripts/bench/quality.py {t} --data DIR --seeds {c['summary']['seeds']} --out docs/results/quality-{t}.json"
            for t, c in found.items()
        ),
        "```",
    ]
    overheads = RESULTS / "overheads.json"
    if overheads.is_file():
        o = json.loads(overheads.read_text())
        lines += [
            "",
            "## What the library itself costs",
            "",
            "| what | figure | beside it |",
            "|---|---|---|",
            f"| `import clisonix` after torch | {1e3 * o['import']['added_s']:.1f} ms | |",
            f"| the same with `compress`, `Meter` and `SignalFabric` | {1e3 * o['import']['added_with_first_use_s']:.0f} ms | |",
            f"| fabric, two modalities, 2 s windows | {o['fabric']['windows_per_s']:,.0f} windows/s "
            f"| {o['fabric']['of_copy_ceiling']:.2f} of copying the same slices |",
            f"| one meter window | {o['meter']['window_us']:.0f} µs | |",
            f"| meter sampling | {100 * o['meter']['sampling_share_of_a_core']:.2f} % of a core | |",
            f"| checkpoint of {o['checkpoint']['model_bytes'] / 1e3:.0f} kB, hashed and synced "
            f"| {1e3 * o['checkpoint']['checkpoint_s']:.0f} ms | `torch.save`: {1e3 * o['checkpoint']['torch_save_s']:.0f} ms |",
            "",
            "`python scripts/bench/overheads.py > docs/results/overheads.json`; medians of alternating repetitions, CPU.",
        ]
    liam = RESULTS / "liam.json"
    if liam.is_file():
        content = json.loads(liam.read_text())
        lines += [*algebra(content), "", *recorded(content["recorded"])]
        lines += ["", "`python scripts/bench/liam.py --json --out docs/results/liam.json`."]
    meter = RESULTS / "meter.json"
    if meter.is_file():
        lines += metered(json.loads(meter.read_text()))
    fabric = RESULTS / "fabric.json"
    if fabric.is_file():
        content = json.loads(fabric.read_text())
        lines += [*woven(content), "", *recorded(content["recorded"])]
        lines += ["", "`python scripts/bench/fabric_record.py --data DIR`."]
    gate = RESULTS / "gate.json"
    if gate.is_file():
        lines += gated(json.loads(gate.read_text()))
    write_bytes(RESULTS / "README.md", ("\n".join(lines) + "\n").encode())


def metered(m: dict[str, Any]) -> list[str]:
    """The meter's accuracy, beside its peers, and its cost."""
    lines = [
        "",
        "## The meter",
        "",
        "On a stand-in for the NVML library whose power is known at every moment, through the real binding. No GPU.",
        "",
        "Share of windows (0.05 to 8 s) whose true energy lies in the 95 % interval, in virtual time; intervals over GPUs:",
        "",
        "| load | " + " | ".join(m["coverage"]) + " |",
        "|---" * (1 + len(m["coverage"])) + "|",
    ]
    kinds = list(next(iter(m["coverage"].values()))["by_load"])
    for kind in kinds:
        cells = [share(scenario["by_load"][kind]) for scenario in m["coverage"].values()]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    totals = [scenario["promised_loads_together"] for scenario in m["coverage"].values()]
    lines.append(f"| first five together ({totals[0]['windows']} windows) | " + " | ".join(map(share, totals)) + " |")
    worst = min(r["hard_bounds_hold"] for s in m["coverage"].values() for r in s["by_load"].values())
    a = m["accuracy, virtual time"]
    lines += [
        "",
        f"The hard bounds hold in {100 * worst:g} % of all of them. A load that switches in step with the counter is",
        "invisible to the counter alone, and to samples that are themselves means over a second; that is what is missing there.",
        "",
        "Steady load, rms error: "
        + ", ".join(f"{100 * v:.2f} % at {k}" for k, v in a["steady_rms"].items())
        + ". Steps of "
        + ", ".join(f"{k}: mean bias {100 * v['mean_bias']:+.3f} %" for k, v in a["steps"].items())
        + "; their sum is that of the whole to "
        + f"{max(v['sum_differs_from_whole_j'] for v in a['steps'].values()):.0e} J.",
        "",
        "Every meter in a process of its own, at once, on the same power in real time; rms error of a window's energy (share of",
        "windows that read 0). Windows of 3.3 s last a whole number of the counter's ticks, which flatters a raw difference:",
        "",
    ]
    table = m["peers, real time"]["table"]
    tools = list(dict.fromkeys(row["tool"] for row in table))
    lines += ["| load | window | " + " | ".join(tools) + " |", "|---" * (2 + len(tools)) + "|"]
    for load, length_s in dict.fromkeys((row["load"], row["window_s"]) for row in table):
        cells = []
        for tool in tools:
            row = next((r for r in table if (r["tool"], r["load"], r["window_s"]) == (tool, load, length_s)), None)
            zeros = f" ({100 * row['zeros']:.0f} % are 0)" if row and row["zeros"] else ""
            cells.append(f"{100 * row['rms_error']:.1f} %{zeros}" if row else "–")
        lines.append(f"| {load} | {length_s} s | " + " | ".join(cells) + " |")
    lines += [f"\n{tool}: {why}." for tool, why in m["peers, real time"]["absent"].items()]
    lines += ["", "| what the meter costs | no GPU | one GPU of the stand-in |", "|---|---|---|"]
    for key, name, scale, unit in (
        ("import_s", "import beyond torch", 1e3, "ms"), ("import_cpu_s", "the same, CPU time", 1e3, "ms"),
        ("start_s", "make and start", 1e3, "ms"), ("window_cpu_s", "one window, CPU time", 1e6, "µs"),
        ("sampling_share", "sampling", 100, "% of a core"),
    ):  # fmt: skip
        both = [
            f"{scale * c[key]['median']:.3g} {unit} (best {scale * c[key]['best']:.3g})" for c in m["cost"].values()
        ]
        lines.append(f"| {name} | " + " | ".join(both) + " |")
    slow, of = m["slowdown"], m["attribution"]
    cpu, wall = slow["cpu"], slow["wall"]
    ratios, fastest = (
        ", ".join(f"{name} {ratio:.2f}" for name, ratio in of[which].items())
        for which in ("ratio_to_isolated_repeats", "ratio_of_the_fastest")
    )
    lines += [
        "",
        "What it costs a training that it watches: steps of some 4 ms in which it sampled against the steps beside them, in",
        "one run, so that the pairs are milliseconds apart; one window around all steps.",
        "",
        "| | steps | with a sample | a sample lengthens its step by | slowdown of the training |",
        "|---|---|---|---|---|",
        *(
            f"| {where} | {w['steps']} | {w['steps_with_a_sample']} | {1e6 * w['a_waking_s']['mean']:.0f} µs | "
            f"{100 * w['slowdown']['mean']:.3f} % ({100 * w['slowdown']['low']:.3f} to {100 * w['slowdown']['high']:.3f}) |"
            for where, w in slow["within a run"].items()
        ),
        "",
        f"With a window around each step, whole blocks against blocks without a meter, {slow['pairs']} alternating pairs: "
        f"{100 * cpu['mean']:+.2f} % CPU time ({100 * cpu['low']:+.2f} to {100 * cpu['high']:+.2f}), "
        f"{100 * wall['mean']:+.2f} % wall time ({100 * wall['low']:+.2f} to {100 * wall['high']:+.2f}): too noisy here to "
        f"say more; an interval of ±0.1 % would need {cpu['pairs_for_an_interval_of_0.1_percent']} and "
        f"{wall['pairs_for_an_interval_of_0.1_percent']} pairs.",
        "",
        f"CPU time attributed to a layer inside a model, over the same layer run alone: {fastest} "
        f"(the fastest of {of['rounds']} alternating rounds); medians: {ratios}.",
        "",
        *recorded(m["recorded"]),
        "",
        "`python scripts/bench/meter.py --json --peers DIR --out docs/results/meter.json`, where DIR holds Zeus.",
    ]
    return lines


def gated(g: dict[str, Any]) -> list[str]:
    """How often the gate is wrong, by simulation."""

    def extreme(which: str, worst: Any, blocked: bool) -> str:  # noqa: ANN401 - min or max
        rows = [row for row in g["gate"] if which in row and ("blocked" in row["design"]) == blocked]
        row = worst(rows, key=lambda row: row[which]["rate"])
        rate = row[which]
        return (
            f"{100 * rate['rate']:.1f} % ({100 * rate['low']:.1f}–{100 * rate['high']:.1f}; {row['design']}, "
            f"{row['noise']} noise, {row['runs']} runs)"
        )

    return [
        "",
        "## The gate",
        "",
        f"{g['pairs']} simulated pairs of sides for each of {len(g['gate'])} designs and kinds of noise, a spread of "
        f"{100 * g['spread']:g} % and a margin of {100 * g['margin']:g} %:",
        "",
        f"- false alarms when the regression equals the margin, runs made alternately: at most {extreme('at_margin', max, False)};",
        f"- the same when all of one side ran before all of the other and noise lasts: {extreme('at_margin', max, True)};",
        f"- power at the regression that the gate advertises: at least {extreme('power', min, False)}.",
        "",
        f"`python scripts/bench/gate.py --json --pairs {g['pairs']} > docs/results/gate.json`",
    ]


def recorded(stamps: dict[str, dict[str, Any]]) -> list[str]:
    """One line per run of the benchmark, with the parts that it measured."""
    lines = []
    for utc in sorted({stamp["utc"] for stamp in stamps.values()}):
        parts = [part for part, stamp in stamps.items() if stamp["utc"] == utc]
        stamp = stamps[parts[0]]
        versions = ", ".join(f"{name} {version}" for name, version in stamp["software"].items() if name != "system")
        lines.append(
            f"- {', '.join(parts)}: {utc[:10]}, commit {stamp['commit']}, {stamp['hardware']['cpu']} with "
            f"{stamp['hardware']['cores']} cores, shared with other work (load {stamp['load_average_before'][0]:.1f} before, "
            f"{stamp['load_average_after'][0]:.1f} after); {versions}."
        )
    return lines


def share(row: dict[str, Any]) -> str:
    low, high = (row.get("covered_low", row.get("low")), row.get("covered_high", row.get("high")))
    return f"{100 * row['covered']:.1f} % ({100 * low:.1f}–{min(100.0, 100 * high):.1f})"


def span(figure: dict[str, Any], digits: int, most: float = float("inf")) -> str:
    # Student's t knows no ceiling; an accuracy does.
    if figure["low"] is None:
        return f"{figure['mean']:.{digits}f}"
    return f"{figure['mean']:.{digits}f} ({figure['low']:.{digits}f} to {min(figure['high'], most):.{digits}f})"


if __name__ == "__main__":
    main()
