"""One meter on the stand-in library in real time; started by `meter.py`, once for each meter.

Reads a plan from standard input: `origin_s`, `windows` (seconds from the origin and lengths) and `gpus`. Opens those
windows, and writes for each window and GPU the truth between the moments just inside of it, and the meter's figure.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "meter"))
from fake_library import Truth

Row = dict[str, Any]


def wait_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.perf_counter()))


def clisonix(plan: dict[str, Any], truth: Truth) -> list[Row]:
    from clisonix.meter import Meter

    with Meter() as meter:
        for k, (start, length) in enumerate(plan["windows"]):
            wait_until(plan["origin_s"] + start)
            with meter.window(f"w{k}"):
                time.sleep(length)
    trace, rows = meter.trace(), []
    for span, (_, length) in zip(trace.windows, plan["windows"], strict=True):
        for reading in trace.readings_during([span]):
            if reading.source == "nvml-counter":
                gpu = int(reading.device.split(":")[1])
                rows.append(
                    {"tool": "clisonix", "gpu": gpu, "length": length, "joules": reading.joules, "low": reading.low,
                     "high": reading.high, "true": truth.joules(gpu, span.start_s, span.end_s)}
                )  # fmt: skip
    return rows


def zeus(plan: dict[str, Any], truth: Truth) -> list[Row]:
    from zeus.monitor import ZeusMonitor

    gpus = list(range(plan["gpus"]))
    monitors = {
        "zeus": ZeusMonitor(gpu_indices=gpus),
        "zeus, approx_instant_energy": ZeusMonitor(gpu_indices=gpus, approx_instant_energy=True),
    }
    rows = []
    for k, (start, length) in enumerate(plan["windows"]):
        wait_until(plan["origin_s"] + start)
        for monitor in monitors.values():
            monitor.begin_window(f"w{k}", sync_execution=False)
        start_s = time.perf_counter()
        time.sleep(length)
        end_s = time.perf_counter()
        for name, monitor in monitors.items():
            found = monitor.end_window(f"w{k}", sync_execution=False).gpu_energy
            rows += [
                {"tool": name, "gpu": gpu, "length": length, "joules": found[gpu],
                 "true": truth.joules(gpu, start_s, end_s)}
                for gpu in gpus
            ]  # fmt: skip
    return rows


def codecarbon(plan: dict[str, Any], truth: Truth) -> list[Row]:
    from codecarbon import OfflineEmissionsTracker

    # It tells no GPU from another, so one tracker for each; a window of each in turn would differ in time.
    gpu = int(plan["only"])
    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", save_to_file=False, save_to_api=False, log_level="critical", allow_multiple_runs=True,
        measure_power_secs=1.0, gpu_ids=[gpu],
    )  # fmt: skip
    tracker.start_task("first")
    tracker.stop_task("first")
    rows = []
    for k, (start, length) in enumerate(plan["windows"]):
        wait_until(plan["origin_s"] + start)
        tracker.start_task(f"w{k}")
        start_s = time.perf_counter()
        time.sleep(length)
        end_s = time.perf_counter()
        found = tracker.stop_task(f"w{k}")
        rows.append({
            "tool": "codecarbon", "gpu": gpu, "length": length, "joules": found.gpu_energy * 3.6e6,
            "true": truth.joules(gpu, start_s, end_s),
        })  # fmt: skip
    return rows


TOOLS: dict[str, Callable[[dict[str, Any], Truth], list[Row]]] = {
    "clisonix": clisonix, "zeus": zeus, "codecarbon": codecarbon
}  # fmt: skip

if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    print(json.dumps(TOOLS[sys.argv[1]](given, Truth("libnvidia-ml.so.1"))))
