"""What the library itself costs: import, windows of the fabric, windows of the meter, checkpoints.

Figures stand beside their floor, measured alternately in the same process: copying the same slices with NumPy, an
empty `with` block, `torch.save`. Prints one JSON line.

    python scripts/bench/overheads.py
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clisonix.fabric import Recording, SignalFabric, Stream
from clisonix.meter import Meter
from clisonix.models import StreamTransformer, TokenSpec
from clisonix.train.checkpoint import write_checkpoint

ROUNDS = 9


def alternately(ours: Callable[[], None], floor: Callable[[], None]) -> tuple[float, float]:
    """Median seconds of each."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for run, times in zip((ours, floor), spent, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(spent[0]), statistics.median(spent[1])


def importing() -> dict[str, float]:
    """What `import clisonix` adds in a process that has torch, and what the first use of three rooms adds to that."""
    clock = "import time, torch; start = time.perf_counter(); import clisonix; {}; print(time.perf_counter() - start)"
    first = "clisonix.compress, clisonix.Meter, clisonix.SignalFabric"

    def run(code: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    rounds = [(run(clock.format("pass")), run(clock.format(first))) for _ in range(ROUNDS)]
    added, used = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"added_s": added, "added_with_first_use_s": used}


def weaving() -> dict[str, float]:
    """Batches of two modalities, 2 s windows, against copying the same slices into the same kind of arrays."""
    rng = np.random.default_rng(0)
    streams = {
        "eeg": Stream(rng.standard_normal((8, 256 * 600), np.float32), 256.0),
        "audio": Stream(rng.standard_normal((1, 8000 * 600), np.float32), 8000.0),
    }
    fabric = SignalFabric([Recording("r", streams)], window=2.0, hop=0.5, batch_size=32, shuffle=True)
    starts = fabric.table.start_s[fabric.order(0)]

    def ours() -> None:
        for _ in fabric:
            pass

    def floor() -> None:
        for first in range(0, len(starts), 32):
            rows = starts[first : first + 32]
            for stream in streams.values():
                n = round(2 * stream.rate_hz)
                batch = np.empty((len(rows), len(stream.samples), n), np.float32)
                for i, start in enumerate(rows):
                    begin = round(start * stream.rate_hz)
                    batch[i] = stream.samples[:, begin : begin + n]

    woven, copied = alternately(ours, floor)
    return {"windows_per_s": len(starts) / woven, "of_copy_ceiling": copied / woven}


def metering() -> dict[str, float]:
    with Meter() as meter:

        def ours() -> None:
            for _ in range(1000):
                with meter.window("w"):
                    pass

        def floor() -> None:
            for _ in range(1000):
                with contextlib.nullcontext():
                    pass

        window, nothing = alternately(ours, floor)
    start = time.perf_counter(), time.process_time()
    with Meter():
        time.sleep(5)
    share = (time.process_time() - start[1]) / (time.perf_counter() - start[0])
    return {"window_us": 1e6 * (window - nothing) / 1000, "sampling_share_of_a_core": share}


def checkpointing() -> dict[str, float]:
    model = StreamTransformer({"x": TokenSpec(6, 50.0, 200)}, 7, width=64)
    size = sum(p.nbytes for p in model.parameters())
    state = {f"optimiser/{n}/exp_avg": p.detach() for n, p in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        steps = iter(range(1000))

        def ours() -> None:
            write_checkpoint(Path(folder), next(steps), model=model, tensors=state, state={})

        def floor() -> None:
            torch.save({**model.state_dict(), **state}, Path(folder) / "plain.pt")

        whole, plain = alternately(ours, floor)
    return {"model_bytes": size, "checkpoint_s": whole, "torch_save_s": plain}


if __name__ == "__main__":
    parts = {"import": importing, "fabric": weaving, "meter": metering, "checkpoint": checkpointing}
    print(json.dumps({name: {k: float(f"{v:.4g}") for k, v in part().items()} for name, part in parts.items()}))
