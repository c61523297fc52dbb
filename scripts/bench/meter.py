"""The meter's claims: coverage and accuracy on known power, its peers on the same power, its cost, attribution.

Power comes from the stand-in for libnvidia-ml in `tests/meter/fake_nvml`, through the real binding. `coverage` and
`accuracy` run in virtual time (the library's clock is moved by hand); `peers` runs in real time, every meter in a
process of its own, all at once on the same power; `cost` and `attribution` use this machine's clocks.

    python scripts/bench/meter.py --json
    python scripts/bench/meter.py --only coverage peers --peers /path/with/zeus --out docs/results/meter.json

Peers that are not installed are named as absent. Zeus may be in a folder of its own, given with `--peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "meter"))
import numpy as np
from fake_library import build, compiler, configure, environment
from meter_cost import attribution, cost, in_environment, slowdown
from meter_coverage import accuracy, coverage
from raw_record import keep, load_average

from clisonix.meter import software

PARTS = ("coverage", "accuracy", "peers", "cost", "slowdown", "attribution")
LOADS = {
    "steady 500 W": "load steady 500\nphase_s 0.037",
    "square 100/700 W, 0.4 s": "load square 100 700 0.4 0.5\nphase_s 0.011",
    "bursts to 600 W": "load random 80 600 0.3 0.03 7\nphase_s 0.062",
    "training steps of 0.23 s": "load phases 120 0.02 400 0.07 550 0.1 200 0.04\nphase_s 0.083",
}
LENGTHS = {0.05: 24, 0.13: 24, 0.73: 16, 3.3: 6}
PAUSE_S = 0.11


def peers(library: Path, folder: Path, site: str | None, quick: bool) -> dict[str, Any]:
    """Every meter on the same power in the same minute."""
    where = {"clisonix": "", "zeus": site or "", "codecarbon": ""}
    absent = {tool: why for tool in where if (why := _absent(tool, where[tool]))}
    config = configure(folder, [f"{options}\nlimit_w 720" for options in LOADS.values()])
    windows, at = [], 0.0
    for length_s, count in LENGTHS.items():
        for _ in range(max(2, count // (6 if quick else 1))):
            windows.append((at, length_s))
            at += length_s + PAUSE_S
    origin_s = time.perf_counter()
    config.write_text(config.read_text().replace("origin_s 0.0", f"origin_s {origin_s!r}"))
    # Late enough for the slowest import.
    plan = {"origin_s": time.perf_counter() + 30.0, "windows": windows, "gpus": len(LOADS)}
    runs = []
    for tool in where:
        if tool in absent:
            continue
        for only in range(len(LOADS)) if tool == "codecarbon" else [None]:
            variables = environment(library, config)
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [where[tool], variables.get("PYTHONPATH", "")]))
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("meter_peers.py")), tool], env=variables, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            runs.append((tool, process, json.dumps({**plan, "only": only})))
    for _, process, text in runs:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    rows: list[dict[str, Any]] = []
    for tool, process, _ in runs:
        out, err = process.communicate(timeout=600)
        if process.returncode:
            absent[tool] = f"failed: {err.strip().splitlines()[-1] if err.strip() else 'no output'}"
        else:
            rows += json.loads(out)
    columns = ("tool", "gpu", "length", "joules", "true", "low", "high")
    every = [[_short(row.get(column)) for column in columns] for row in rows]
    return {"absent": absent, "table": _table(rows), "columns": columns, "rows": every}


def _short(value: Any) -> Any:  # noqa: ANN401
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _absent(tool: str, site: str) -> str | None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import importlib.util as u; print(u.find_spec(sys.argv[2]))"
    done = subprocess.run([sys.executable, "-c", code, site, tool], check=True, capture_output=True, text=True)
    missing = done.stdout.strip() == "None"
    return "not installed" if missing else None


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        for gpu, load in enumerate(LOADS):
            for length_s in LENGTHS:
                mine = [r for r in rows if (r["tool"], r["gpu"], r["length"]) == (tool, gpu, length_s)]
                known = [r for r in mine if r["joules"] is not None]
                if not known:
                    continue
                errors = np.array([r["joules"] / r["true"] - 1 for r in known])
                line = {
                    "tool": tool, "load": load, "window_s": length_s, "windows": len(mine),
                    "rms_error": float(np.sqrt(np.mean(errors**2))), "bias": float(np.mean(errors)),
                    "zeros": float(np.mean([r["joules"] == 0 for r in known])),
                }  # fmt: skip
                if "low" in known[0]:
                    line["covered"] = float(np.mean([r["low"] <= r["true"] <= r["high"] for r in known]))
                table.append(line)
    return table


def _peer_versions(site: str | None) -> dict[str, str]:
    found = (next(iter(distributions(name="zeus", path=[site])), None)) if site else None
    return {} if found is None else {"zeus": found.version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--peers", help="folder with Zeus, as made by pip install --target")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    parser.add_argument("--json", action="store_true", help="one line instead of indented")
    parser.add_argument(
        "--out", type=Path, help="also write the parts, rows included, to this file; others in it stay"
    )
    arguments = parser.parse_args()
    if compiler() is None:
        sys.exit("there is no C compiler to build the stand-in for libnvidia-ml")
    quick = arguments.quick
    found: dict[str, Any] = {}
    before = load_average()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build(folder)
        if "coverage" in arguments.only:
            found["coverage"] = {
                "with power samples": coverage(library, folder, quick),
                "with power samples that are means over a second": coverage(library, folder, quick, 1.0),
                "counter alone": coverage(library, folder, quick, None),
            }
        if "accuracy" in arguments.only:
            found["accuracy, virtual time"] = accuracy(library, folder, quick)
        if "peers" in arguments.only:
            found["peers, real time"] = peers(library, folder, arguments.peers, quick)
        if "cost" in arguments.only:
            one = configure(folder, ["load steady 500"])
            repeats, seconds = (1, 3.0) if quick else (5, 20.0)
            found["cost"] = {
                "no GPU": cost(None, repeats, seconds),
                "one GPU of the stand-in": cost(environment(library, one), repeats, seconds),
            }
        if "slowdown" in arguments.only:
            found["slowdown"] = slowdown(*((4, 0.2) if quick else (40, 0.8)))
            one, seconds = configure(folder, ["load steady 500"]), 20.0 if quick else 100.0
            found["slowdown"]["within a run"] = {
                "no GPU": in_environment(dict(os.environ), seconds),
                "one GPU of the stand-in": in_environment(environment(library, one), seconds),
            }
        if "attribution" in arguments.only:
            found["attribution"] = attribution(5 if quick else 61)
    if arguments.out:
        versions = software(("codecarbon", "nvidia-ml-py"))
        keep(arguments.out, found, before, {**versions, **_peer_versions(arguments.peers)})
    for part in ("peers, real time",):
        found.get(part, {}).pop("rows", None)
        found.get(part, {}).pop("columns", None)
    found.get("slowdown", {}).get("wall", {}).pop("every", None)
    found.get("slowdown", {}).get("cpu", {}).pop("every", None)
    print(json.dumps(found, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
