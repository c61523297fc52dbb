"""Excess loss of a byte-level GPT over bits a weight: SVD, GPTQ, double binary, and the best form for each layer.

The layers of all blocks are compressed, every scale and factor counted; embeddings, norms and biases stay. Excess
loss is in nats a byte of held-out files, over that of the dense model. Calibration and recovery see training files
only. Each finished row goes to a file in the work folder, so that a run that was cut goes on where it was.

    python scripts/bench/frontier.py --work DIR --seeds 0 1 2 --out docs/results/frontier.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from byte_gpt import Shape, corpus, evaluate, trained, windows
from frontier_methods import Method, compressed, gptq_kinds, ours, output_weights, svd
from raw_record import keep, load_average
from torch import Tensor, nn

from clisonix.compress import expand
from clisonix.compress.blockwise import reconstruct
from clisonix.compress.recover import recover
from clisonix.files import append_lines
from clisonix.meter.comparing.intervals import mean_interval

BITS = (1.0, 1.5, 2.25, 3.25, 4.25)
CALIBRATION = 128  # windows
# What has to hold, and what is aimed at: bits, ours, held against, at most, aim.
CLAIMS = (
    (2.25, "recovered", "GPTQ", 0.6, 0.35),
    (1.0, "recovered", "whitened SVD fp16", 0.12, 0.05),
    (4.25, "recovered", "GPTQ", 1.0, 1.0),
)


class Windows:
    """Batches of training windows without end, the same for the same seed."""

    def __init__(self, data: Tensor, shape: Shape, seed: int) -> None:
        self.data, self.shape, self.seed = data, shape, seed

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield windows(self.data, self.shape.batch, self.shape.context, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and finished rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=float, nargs="+", default=list(BITS))
    parser.add_argument("--train-steps", type=int, default=Shape.steps)
    parser.add_argument("--cpu-minutes", type=float, default=10.0, help="of each recovery")
    parser.add_argument("--block-steps", type=int, default=100)
    parser.add_argument("--out", type=Path, help="JSON file with every row")
    arguments = parser.parse_args()
    shape, load = Shape(steps=arguments.train_steps), load_average()
    arguments.work.mkdir(parents=True, exist_ok=True)
    log = arguments.work / f"frontier-{shape.steps}-{arguments.cpu_minutes:g}-{arguments.block_steps}.jsonl"
    for seed in arguments.seeds:
        study(arguments, shape, seed, log)
    rows = [row for row in finished(log) if row["seed"] in arguments.seeds and row["bits"] in arguments.bits]
    summary = summarise(rows)
    if arguments.out:
        keep(arguments.out, {"frontier": {"summary": summary, "rows": rows}}, load, {})
    print(json.dumps(summary))


def finished(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def study(arguments: argparse.Namespace, shape: Shape, seed: int, log: Path) -> None:
    train_bytes, test_bytes = corpus()
    dense = trained(shape, seed, arguments.work)
    generator = torch.Generator().manual_seed(1000 + seed)
    calibration = windows(train_bytes, CALIBRATION, shape.context + 1, generator)
    judged = list(windows(train_bytes, 4 * shape.batch, shape.context, generator).split(shape.batch))
    outputs = output_weights(dense, calibration)
    dense_loss = evaluate(dense, test_bytes, shape.context)
    done = {(row["seed"], row["bits"], row["method"]) for row in finished(log)}

    def record(bits: float, name: str, model: nn.Module, taken: float, start: float) -> None:
        row = {"seed": seed, "bits": bits, "method": name, "bits_taken": taken, "dense_loss": dense_loss}
        seconds = time.perf_counter() - start
        row["excess"] = evaluate(expand(model), test_bytes, shape.context) - dense_loss
        append_lines(log, [{**row, "seconds": seconds}])
        print(f"seed {seed}, {bits} bits, {name}: {row['excess']:.4f} in {seconds:.0f} s", flush=True)

    for bits in arguments.bits:
        for name, method in methods(bits).items():
            if (seed, bits, name) not in done:
                start = time.perf_counter()
                small = compressed(dense, calibration, outputs, method)
                record(bits, name, small, small.bits, start)
        if (seed, bits, "recovered") in done:
            continue
        start = time.perf_counter()
        small = compressed(dense, calibration, outputs, partial(ours, bits=bits))
        taken = small.bits
        record(bits, "ours", small, taken, start)
        start = time.perf_counter()
        batches = list(calibration[:, :-1].split(shape.batch))
        small = reconstruct(small, dense, batches, steps=arguments.block_steps, seed=seed)
        record(bits, "ours, blockwise", small, taken, start)
        start = time.perf_counter()
        stream = Windows(train_bytes, shape, 2000 + seed)
        small = recover(
            small, dense, stream, cpu_minutes=arguments.cpu_minutes, loss="kl", held_out=judged, seed=seed
        )  # fmt: skip
        record(bits, "recovered", small, taken, start)


def methods(bits: float) -> dict[str, Method]:
    return {
        "plain SVD fp16": partial(svd, bits=bits, whiten=False),
        "whitened SVD fp16": partial(svd, bits=bits, whiten=True),
        **gptq_kinds(bits),
        "double binary": partial(ours, bits=bits, forms=("double binary",)),
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean excess loss of each method and bits, and the claims: the ratio of each seed, against the best GPTQ."""
    excess: dict[tuple[float, str], dict[int, float]] = {}
    for row in rows:
        excess.setdefault((row["bits"], row["method"]), {})[row["seed"]] = row["excess"]
        if row["method"].startswith("GPTQ"):
            best = excess.setdefault((row["bits"], "GPTQ"), {})
            best[row["seed"]] = min(row["excess"], best.get(row["seed"], float("inf")))
    table: dict[str, dict[str, float]] = {}
    for (bits, method), by_seed in sorted(excess.items()):
        table.setdefault(method, {})[str(bits)] = statistics.fmean(by_seed.values())
    claims = []
    for bits, mine, theirs, most, aim in CLAIMS:
        ours_, other = excess.get((bits, mine), {}), excess.get((bits, theirs), {})
        ratios = [ours_[seed] / other[seed] for seed in sorted(ours_.keys() & other.keys())]
        if ratios:
            interval = mean_interval(ratios) if len(ratios) > 1 else None
            claims.append({"bits": bits, "ours": mine, "against": theirs, "at_most": most, "aim": aim,
                           "ratios": ratios, "mean": statistics.fmean(ratios), "interval": interval})  # fmt: skip
    return {"excess_nats_per_byte": table, "claims": claims}


if __name__ == "__main__":
    main()
