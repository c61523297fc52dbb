"""A clock that moves when told to, a load of known power, sensors that watch it, and whole run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.meter import (
    CpuTimeModel,
    Record,
    Recorder,
    SensorLost,
    carbon_block,
    combine,
    energy_block,
    file_entries,
    read_predictions,
    write_record,
)


class World:
    """Virtual time and the energy a device has truly used: a piecewise linear history."""

    def __init__(self, start_s: float = 100.0) -> None:
        self.now_s = start_s
        self._t, self._e = [start_s - 10.0, start_s], [-500.0, 0.0]
        self.cpu_s = 7.0

    def clock(self) -> float:
        return self.now_s

    def cpu_clock(self) -> float:
        return self.cpu_s

    def run(self, seconds: float, power_w: float, busy: float = 1.0) -> None:
        self.now_s += seconds
        self._t.append(self.now_s)
        self._e.append(self._e[-1] + seconds * power_w)
        self.cpu_s += seconds * busy

    def true_j(self, t_s: float) -> float:
        return float(np.interp(t_s, self._t, self._e))


class TickingCounter:
    """Like NVML's: shows the energy at its last refresh. Starts at `origin_j`; can be reset and can fail."""

    name, source, scope, device = "nvml:0", "nvml-counter", "GPU board", "gpu:0"
    exact_edges = False

    def __init__(
        self, world: World, refresh_s: float = 0.1, phase_s: float = 0.0, max_power_w: float = 700.0
    ) -> None:
        self.world, self.refresh_s, self.phase_s, self.max_power_w = world, refresh_s, phase_s, max_power_w
        self.parameters: dict[str, Any] = {"how": "measured by the NVML energy counter"}
        self.origin_j, self.failure = 1e6, ""

    def reset(self) -> None:
        self.origin_j = -self.world.true_j(self._tick_s())

    def read(self) -> tuple[float, float]:
        if self.failure:
            raise SensorLost(self.failure)
        # Whole millijoules, as the real one.
        return self.world.now_s, round(self.origin_j + self.world.true_j(self._tick_s()), 3)

    def _tick_s(self) -> float:
        # The small term keeps a read at a tick's very moment on the later side of rounding.
        n = np.floor((self.world.now_s - self.phase_s) / self.refresh_s + 1e-9)
        return min(float(n * self.refresh_s + self.phase_s), self.world.now_s)


class ExactCounter:
    """Like RAPL's: every read is current."""

    source, scope = "rapl-counter", "CPU package, all processes"
    exact_edges, refresh_s, max_power_w = True, None, 1000.0

    def __init__(self, world: World, device: str = "cpu:0") -> None:
        self.world, self.device, self.name = world, device, f"rapl-{device}"
        self.parameters: dict[str, Any] = {"how": "measured by the RAPL energy counter"}
        self.failure = ""

    def read(self) -> tuple[float, float]:
        if self.failure:
            raise SensorLost(self.failure)
        return self.world.now_s, self.world.true_j(self.world.now_s)


def cpu_model(world: World) -> CpuTimeModel:
    return CpuTimeModel(clock=world.clock, cpu_clock=world.cpu_clock)


def sampled(
    world: World, recorder: Recorder, seconds: float, power_w: float | Callable[[float], float], period_s: float = 0.1
) -> None:
    """Let time pass with a sample each period."""
    end_s = world.now_s + seconds
    while world.now_s < end_s - 1e-9:
        step = min(period_s, end_s - world.now_s)
        world.run(step, power_w(world.now_s) if callable(power_w) else power_w)
        recorder.sample()


def make_run(
    folder: Path,
    *,
    seed: int = 0,
    gpu: bool = True,
    slow: float = 1.0,
    accuracy: float = 0.9,
    epochs: int = 5,
    name: str = "digits",
    labels_seed: int = 5,
) -> Path:
    """Write a whole, verifiable run folder from a simulated training."""
    rng = np.random.default_rng(seed)
    world = World()
    sensors = [TickingCounter(world), cpu_model(world)] if gpu else [cpu_model(world)]
    recorder = Recorder(sensors, clock=world.clock)
    recorder.sample()
    events = []
    with recorder.window("run"):
        with recorder.window("train"):
            for phase, power_w in (("dense", 500.0), ("compressed", 350.0)):
                for k in range(1, epochs + 1):
                    window = f"train/{phase}/epoch-{k}"
                    with recorder.window(window):
                        sampled(world, recorder, slow * float(rng.uniform(0.9, 1.1)), power_w)
                    found = recorder.trace()
                    events.append({
                        "event": "epoch", "epoch": k, "phase": phase, "loss": 1 / k, "accuracy": 1 - 0.5 / k,
                        "seconds": found.seconds(window), "joules": found.energy(window).joules,
                    })  # fmt: skip
        with recorder.window("evaluate"):
            sampled(world, recorder, 0.5, 200.0)
    sampled(world, recorder, 0.3, 80.0)

    folder.mkdir(parents=True)
    trace = recorder.trace()
    trace.save(folder / "trace-1.npz")
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "model.safetensors").write_bytes(rng.bytes(int(2000 * slow)))
    label = np.random.default_rng(labels_seed).integers(0, 4, 200)
    logits = np.zeros((200, 4), np.float32)
    right = rng.random(200) < accuracy
    logits[np.arange(200), np.where(right, label, (label + 1) % 4)] = 1.0
    np.savez(folder / "predictions.npz", label=label, logits=logits)
    account = combine([trace])
    record = Record(
        name=name, created_utc="2026-01-01T00:00:00+00:00", finished_utc="2026-01-01T00:01:00+00:00",
        command="clisonix train digits.yaml", config={"model": {"dim": 8}}, seed=seed, task="spoken digits",
        quality=read_predictions(folder / "predictions.npz").accuracy(),
        time={"train_s": account.seconds("train")},
        size={"bytes": int(2000 * slow), "parameters": 500, "file": "model.safetensors"},
        energy=energy_block(account),
        hardware={"cpu": "test CPU", "cores": 2, "gpus": ["test GPU"] if gpu else []},
        software={"python": "3.11"},
        attempts=[{"trace": "trace-1.npz", "started_utc": "2026-01-01T00:00:00+00:00", "ended_cleanly": True}],
        files=file_entries(folder, ["trace-1.npz", "log.jsonl", "model.safetensors", "predictions.npz"]),
        notes=["a note"],
    )  # fmt: skip
    record.carbon = carbon_block(record.total("run"), "FRA", "run")
    write_record(folder, record)
    return folder
