"""What share of a training step goes into waiting for its batch, for the provided configs.

    python scripts/bench/pipeline_share.py --data DIR --json

Trains some epochs of each config as `clisonix train` does, and divides the time that the loop stood in the loader
(`LoaderStats.asked_s`: waiting, making a batch itself, moving it) by the time of the steps. Epochs with the loader's
thread, and with none, where every batch is made when it is asked for, take turns, so that both see the same machine.
The claim is the median over epochs of the share with the thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from clisonix.meter.recording.machine import hardware
from clisonix.train.config import load_config
from clisonix.train.learner import Learner, choose_device
from clisonix.train.task import open_task

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ("ssvep", "fsdd", "watch")
PROMISED_PERCENT = 2.0


def epoch_of(learner: Learner) -> tuple[float, float]:
    """Seconds of waiting and of the whole epoch."""
    start = time.perf_counter()
    for _ in learner.advance():
        pass
    seconds, waited = time.perf_counter() - start, learner.input_s
    learner.end_epoch()
    return waited, seconds


def measure(name: str, root: Path, epochs: int, device: str) -> dict[str, Any]:
    """Shares in percent, and milliseconds of a step and of its waiting."""
    learners = {}
    for threads in (1, 0):
        config = load_config(ROOT / f"configs/{name}.yaml", [f"train.loader_threads={threads}"])
        torch.manual_seed(config.seed)
        learners[threads] = Learner(config, open_task(config, root), choose_device(device))
        epoch_of(learners[threads])  # the first one allocates
    spent: dict[int, list[tuple[float, float]]] = {1: [], 0: []}
    for turn in range(epochs):
        for threads in (1, 0) if turn % 2 == 0 else (0, 1):
            spent[threads].append(epoch_of(learners[threads]))
    steps = len(learners[1].task.train)

    def percent(threads: int) -> float:
        return statistics.median(100 * waited / seconds for waited, seconds in spent[threads])

    return {
        "config": name,
        "steps_per_epoch": steps,
        "epochs": epochs,
        "step_ms": 1e3 * statistics.median(seconds for _, seconds in spent[1]) / steps,
        "waiting_ms": 1e3 * statistics.median(waited for waited, _ in spent[1]) / steps,
        "share_percent": percent(1),
        "share_percent_of_each_epoch": [round(100 * waited / seconds, 3) for waited, seconds in spent[1]],
        "share_percent_without_thread": percent(0),
        "promised_percent": PROMISED_PERCENT,
        "kept": percent(1) <= PROMISED_PERCENT,
        "loader_seconds": learners[1].loader.stats.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS, help="names of configs")
    parser.add_argument("--data", type=Path, default=os.environ.get("CLISONIX_DATA"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data DIR or set CLISONIX_DATA")
    rows = [measure(name, Path(arguments.data), arguments.epochs, arguments.device) for name in arguments.configs]
    machine = {**hardware(), "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
    if arguments.json:
        print(json.dumps({"bench": "pipeline_share", "results": rows, "machine": machine}))
        return
    for row in rows:
        print(
            f"{row['config']}: {row['share_percent']:.2f} % of a step of {row['step_ms']:.1f} ms is waiting "
            f"({row['share_percent_without_thread']:.2f} % without a thread; promised {PROMISED_PERCENT:g} %)"
        )


if __name__ == "__main__":
    main()
