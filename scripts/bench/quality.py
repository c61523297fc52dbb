"""Dense model against its compressed twin: accuracy, time, energy and size over seeds and folds.

Both sides of a (seed, fold) are trained one after the other in one process, in alternating order, so that a machine
whose speed drifts treats them alike. Prints one JSON line; `--out` keeps every run.

    python scripts/bench/quality.py watch --data DIR --seeds 3 --out docs/results/quality-watch.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from clisonix.files import write_json
from clisonix.meter.comparing.intervals import mean_interval
from clisonix.meter.recording.machine import hardware, software
from clisonix.train import load_config, train

ROOT = Path(__file__).parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="name of a config")
    parser.add_argument("overrides", nargs="*", help="key.key=value, for both sides")
    parser.add_argument("--data", type=Path, default=os.environ.get("CLISONIX_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, help="folds to run; default: all that the split has")
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--out", type=Path, help="JSON file with every run")
    arguments = parser.parse_args()
    runs = [
        run for seed in range(arguments.seeds) for fold in folds(arguments) for run in pair(arguments, seed, fold)
    ]
    summary = summarise(arguments.task, runs)
    if arguments.out:
        machine = {"hardware": {**hardware(), "threads": torch.get_num_threads()}, "software": software()}
        write_json(arguments.out, {"summary": summary, "machine": machine, "runs": runs})
    print(json.dumps(summary))


def folds(arguments: argparse.Namespace) -> list[int | None]:
    split = load_config(ROOT / f"configs/{arguments.task}.yaml", arguments.overrides).data.split
    if split.test is not None:
        return [None]
    return list(range(arguments.folds or split.folds or 6))


def pair(arguments: argparse.Namespace, seed: int, fold: int | None) -> list[dict[str, Any]]:
    sides = [("dense", []), ("twin", [f"compress.budget={arguments.budget}"])]
    if (seed + (fold or 0)) % 2:
        sides.reverse()
    rows = []
    for side, extra in sides:
        overrides = [*arguments.overrides, f"seed={seed}", "train.evaluate_every=0", *extra]
        if fold is not None:
            overrides.append(f"data.split.fold={fold}")
        config = load_config(ROOT / f"configs/{arguments.task}.yaml", overrides)
        with tempfile.TemporaryDirectory() as folder:
            record = train(config, Path(folder) / "run", root=arguments.data)
        assert record.quality is not None
        energy = record.total("train")
        rows.append(
            {
                "side": side,
                "seed": seed,
                "fold": fold,
                "correct": round(record.quality["value"] * record.quality["n"]),
                "windows": record.quality["n"],
                "train_s": record.time["train_s"],
                "train_j": energy.joules or math.nan,
                "energy_how": energy.how(),
                "bytes": record.size["bytes"],
            }
        )
        where = f"{arguments.task} seed {seed} fold {fold} {side}"
        print(f"{where}: {record.quality['value']:.4f} in {record.time['train_s']:.1f} s", flush=True)
    return rows


def summarise(task: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    seeds = sorted({run["seed"] for run in runs})

    def per_seed(side: str, value: str) -> list[float]:
        return [sum(r[value] for r in runs if r["side"] == side and r["seed"] == s) for s in seeds]

    def points(side: str) -> list[float]:
        counts = zip(per_seed(side, "correct"), per_seed(side, "windows"), strict=True)
        return [100 * correct / windows for correct, windows in counts]

    def interval(values: list[float]) -> dict[str, Any]:
        if len(values) < 2:
            return {"mean": values[0], "low": None, "high": None}
        found = mean_interval(values)
        return {"mean": found[0], "low": found[1], "high": found[2]}

    def ratio(value: str) -> dict[str, Any]:
        logs = [math.log(b / a) for a, b in zip(per_seed("dense", value), per_seed("twin", value), strict=True)]
        return {k: None if v is None else math.exp(v) for k, v in interval(logs).items()}

    dense, twin = points("dense"), points("twin")
    return {
        "task": task,
        "seeds": len(seeds),
        "accuracy_dense_percent": interval(dense),
        "accuracy_twin_percent": interval(twin),
        "twin_minus_dense_points": interval([b - a for a, b in zip(dense, twin, strict=True)]),
        "time_ratio": ratio("train_s"),
        "energy_ratio": ratio("train_j"),
        "energy_how": runs[0]["energy_how"],
        "bytes_ratio": per_seed("twin", "bytes")[0] / per_seed("dense", "bytes")[0],
        "longest_dense_s": max(r["train_s"] for r in runs if r["side"] == "dense"),
        "intervals": "95 %, Student t over seeds; accuracy is pooled over the folds of a seed",
    }


if __name__ == "__main__":
    main()
