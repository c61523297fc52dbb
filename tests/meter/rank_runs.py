"""Run folders of ranks that watch the same or other devices, with every time and counter chosen by the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clisonix.meter import (
    Record,
    SensorInfo,
    Series,
    Span,
    Trace,
    combine,
    energy_block,
    file_entries,
    write_record,
)

POWER_W = {"GPU-aaaa": 300.0, "GPU-bbbb": 200.0, "cpu:0": 80.0, "cpu": 6.0}
PERIOD_S = 0.5


def series(device: str, start_s: float, end_s: float) -> Series:
    """Exact samples of a steady load.

    Args:
        device: a GPU's UUID; `cpu:0`, a package's counter; or `cpu`, the model of this process's share.
        start_s: of the sampling.
        end_s: likewise.
    """
    if device.startswith("GPU"):
        parameters = {"uuid": device, "how": "measured", "model": "test GPU"}
        info = SensorInfo("nvml:0", "nvml-counter", "GPU board", "gpu:0", None, 700.0, True, parameters)
    elif device == "cpu":
        model = {"how": "modelled", "watts": 3.0, "low": 1.5, "high": 6.0}
        scope = "CPU busy time of this process"
        info = SensorInfo("cpu-time", "cpu-time-model", scope, "cpu", None, 100.0, True, model)
    else:
        scope = "CPU package, all processes"
        info = SensorInfo("rapl-cpu:0", "rapl-counter", scope, "cpu:0", None, 400.0, True, {"how": "measured"})
    t_s = np.arange(start_s, end_s + PERIOD_S / 2, PERIOD_S)
    return Series(info, t_s, POWER_W[device] * t_s)


def make_rank(
    folder: Path,
    *,
    rank: int,
    devices: Sequence[str] = ("GPU-aaaa", "cpu"),
    start_s: float = 10.0,
    train: tuple[float, float] = (12.0, 32.0),
    node: str | None = "node-1",
    utc: str = "2026-01-01T00:00:00+00:00",
    clock_s: float = 0.0,
    change: Callable[[Series], Series] = lambda one: one,
    seed: int = 0,
) -> Path:
    """Write the run folder of one rank; its samples reach 5 s beyond its training."""
    end_s = train[1] + 5.0
    windows = [Span("run", train[0] - 1, train[1] + 1), Span("train/dense/epoch-1", *train)]
    watched = [change(series(device, start_s, end_s)) for device in devices]
    trace = Trace(watched, windows, [], utc, clock_s)
    folder.mkdir(parents=True)
    trace.save(folder / "trace-0.npz")
    (folder / "model.safetensors").write_bytes(b"the same model on every rank")
    account = combine([trace])
    record = Record(
        name="job", created_utc=utc, finished_utc=utc, seed=seed, task="digits",
        time={"train_s": account.seconds("train")},
        size={"bytes": (folder / "model.safetensors").stat().st_size, "file": "model.safetensors"},
        energy=energy_block(account, ["run", "train", "train/dense"]),
        hardware={"cpu": "test CPU", "cores": 8, "gpus": ["test GPU"]},
        attempts=[{"trace": "trace-0.npz", "started_utc": utc, "ended_cleanly": True, "rank": rank}],
        files=file_entries(folder, ["trace-0.npz", "model.safetensors"]),
        notes=["a note of every rank", f"a note of rank {rank}"],
    )  # fmt: skip
    if node is not None:
        record.attempts[0]["node"] = node
    write_record(folder, record)
    return folder
