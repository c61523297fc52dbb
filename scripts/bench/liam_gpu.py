"""Check every GPU kernel on the GPU that is there, then time those that are right against the best there is.

One command verifies and measures everything:

    python scripts/bench/liam_gpu.py --json docs/results/gpu.json

It needs a CUDA build of torch and Triton. A kernel with a wrong or unrepeatable result is named and not timed, and
the exit code is 1. The record holds every repetition of every contender in seconds. Under the tools of NVIDIA that
find accesses outside of tensors and races, run the small checks only:

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python scripts/bench/liam_gpu.py --check small
    compute-sanitizer --tool racecheck python scripts/bench/liam_gpu.py --check small
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clisonix.files import write_json

if TYPE_CHECKING:
    from gpu_contenders import Claim
    from gpu_timing import Clock

Record = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("No CUDA GPU is visible to torch; run this on a machine with one.", file=sys.stderr)
        return 2
    # These import Triton, which a machine without a GPU need not have.
    import gpu_checks
    from gpu_contenders import claims
    from gpu_timing import Clock
    from gpu_tune import tune

    device = torch.device("cuda", torch.cuda.current_device())
    record: Record = {"schema": 1, **where(device), "checks": [], "claims": []}
    for check in gpu_checks.run(device, small=chosen.check == "small"):
        error = check.error if math.isfinite(check.error) else None  # JSON has no infinity
        record["checks"].append({**check._asdict(), "error": error, "passed": check.passed})
        if not check.passed:
            why = check.reason or ("" if check.repeatable else "results differ between runs, ") + f"{check.error:.3g}"
            print(f"WRONG  {check.kernel}: {check.case}: {why} (allowed {check.allowed:.3g})", flush=True)
    wrong = {check["kernel"] for check in record["checks"] if not check["passed"]}
    print(f"{len(record['checks'])} checks, wrong: {', '.join(sorted(wrong)) or 'none'}", flush=True)
    if chosen.tune:
        tune(device, wrong)
    if chosen.check is None and not chosen.tune:
        clock = Clock(device)
        for claim in claims(device, clock, chosen.sizes):
            measured = measure(claim, clock, chosen.repeats, wrong)
            record["claims"].append(measured)
            print("\n".join(table(measured)), flush=True)
    if chosen.json == "-":
        print(json.dumps(record))
    elif chosen.json:
        write_json(Path(chosen.json), record)
    return 1 if wrong else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the whole record to FILE, or printed")
    made.add_argument("--repeats", type=positive, default=100, help="repetitions of each contender (default 100)")
    made.add_argument("--sizes", type=size, nargs="+", default=[16384, 4096], help="rows and columns of the matrices")
    made.add_argument("--check", choices=("all", "small"), help="only check, the usual sizes or small ones")
    made.add_argument("--tune", action="store_true", help="try tiles and print the lines of the tables, time nothing")
    return made


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def size(text: str) -> int:
    number = positive(text)
    if number % 128:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 128")
    return number


def where(device: torch.device) -> Record:
    """What the figures depend on."""
    properties = torch.cuda.get_device_properties(device)
    import triton

    return {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "commit": _said("git", "rev-parse", "HEAD"),
        "changed_files": _said("git", "status", "--porcelain"),
    }


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def measure(claim: Claim, clock: Clock, repeats: int, wrong: set[str]) -> Record:
    """Times of the contenders whose kernels and results are right, with a copy of memory as a yardstick."""
    from gpu_timing import Contender

    refused: dict[str, str] = {}
    running = []
    for contender in claim.contenders:
        bad = wrong.intersection(claim.kernels.get(contender.name, ()))
        if bad:
            refused[contender.name] = f"{', '.join(sorted(bad))}: wrong in the checks"
            continue
        try:
            result = contender.calls[0]()
            if claim.expected is not None and contender.name != "cublas":
                off = float((result.float() - claim.expected).norm() / claim.expected.norm())  # type: ignore[attr-defined]
                if not off <= claim.tolerance:
                    refused[contender.name] = f"its result is off by {off:.3g}"
                    continue
        except Exception as error:  # a contender that fails is left out and named
            refused[contender.name] = f"{type(error).__name__}: {error}"
            continue
        running.append(contender)
    source = clock.flush[: clock.flush.numel() // 2]
    target = clock.flush[clock.flush.numel() // 2 :][: source.numel()]
    running.append(Contender("copy", [lambda: target.copy_(source)]))
    modes = {mode: clock.time(running, mode, repeats) for mode in claim.modes}
    return {
        "name": claim.name,
        "refused": refused,
        "notes": list(claim.notes),
        "copied_bytes": 2 * source.numel(),
        "moved_bytes": claim.moved,
        "seconds": modes,
        "targets": [
            verdict(target._asdict(), seconds, mode) for mode, seconds in modes.items() for target in claim.targets
        ]
        + [bandwidth(claim, seconds, mode, 2 * source.numel()) for mode, seconds in modes.items() if claim.bandwidth],
    }


def verdict(target: Record, seconds: dict[str, list[float]], mode: str) -> Record:
    """How many times faster the best of ours was: the median over repetitions of the ratio within each."""
    ours = [name for name in target["ours"] if name in seconds]
    found: Record = {**target, "mode": mode, "best": None, "ratio": None, "reached": False}
    if not ours or target["theirs"] not in seconds:
        return found
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    ratio = statistics.median(t / o for t, o in zip(seconds[target["theirs"]], seconds[best], strict=True))
    return {**found, "best": best, "ratio": ratio, "reached": ratio >= target["factor"]}


def bandwidth(claim: Claim, seconds: dict[str, list[float]], mode: str, copied: int) -> Record:
    """The part of the bandwidth of a copy that the best of ours reached."""
    ours = [name for target in claim.targets[:1] for name in target.ours if name in seconds]
    found: Record = {"ours": ours, "theirs": "copy bandwidth", "factor": claim.bandwidth, "aim": 0.8, "mode": mode}
    if not ours:
        return {**found, "best": None, "ratio": None, "reached": False}
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    pairs = zip(seconds[best], seconds["copy"], strict=True)
    ratio = statistics.median((claim.moved / o) / (copied / c) for o, c in pairs)
    return {**found, "best": best, "ratio": ratio, "reached": ratio >= claim.bandwidth}


def table(measured: Record) -> list[str]:
    """A claim for a reader: medians in microseconds, and every target beside what was reached."""
    lines = ["", measured["name"]]
    for mode, seconds in measured["seconds"].items():
        figures = ", ".join(f"{name} {1e6 * statistics.median(times):.1f}" for name, times in seconds.items())
        lines.append(f"  {mode:9} µs: {figures}")
    for found in measured["targets"]:
        got = "not measured" if found["ratio"] is None else f"{found['ratio']:.2f} ({found['best']})"
        mark = "reached" if found["reached"] else "MISSED"
        lines.append(
            f"  {mark:7} {found['mode']:9} against {found['theirs']}: {got}, wanted {found['factor']:.2f}, "
            f"aim {found['aim']:.2f}"
        )
    lines += [f"  left out: {name}: {reason}" for name, reason in measured["refused"].items()]
    return lines + [f"  {note}" for note in measured["notes"]]


if __name__ == "__main__":
    sys.exit(main())
