"""Write docs/results/README.md from the raw records beside it: no figure on that page is typed by hand.

python scripts/bench/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    write_bytes(RESULTS / "README.md", ("\n".join(lines) + "\n").encode())


def span(figure: dict[str, Any], digits: int, most: float = float("inf")) -> str:
    # Student's t knows no ceiling; an accuracy does.
    if figure["low"] is None:
        return f"{figure['mean']:.{digits}f}"
    return f"{figure['mean']:.{digits}f} ({figure['low']:.{digits}f} to {min(figure['high'], most):.{digits}f})"


if __name__ == "__main__":
    main()
