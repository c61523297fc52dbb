"""What the meter itself costs: import, start, windows, sampling, slowdown of training, accuracy of attribution."""

from __future__ import annotations

import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from clisonix.meter import CpuTimeModel, Meter, mean_interval

IMPORT = """
import json, sys, time
import torch, numpy
began = time.perf_counter(); cpu_began = time.process_time()
import clisonix; clisonix.Meter
imported = time.perf_counter(); imported_cpu = time.process_time()
meter = clisonix.Meter()
made = time.perf_counter()
meter.__enter__()
started = time.perf_counter()
def windows(count):
    cpu = time.thread_time()
    for k in range(count):
        with meter.window("w"):
            pass
    return (time.thread_time() - cpu) / count
windows(20)
window_s = windows(500)
time.sleep(6.0)
cpu = time.process_time()
time.sleep(float(sys.argv[1]))
share = (time.process_time() - cpu) / float(sys.argv[1])
meter.__exit__(None, None, None)
print(json.dumps({"import_s": imported - began, "import_cpu_s": imported_cpu - cpu_began,
                  "start_s": started - imported, "detect_s": made - imported,
                  "window_cpu_s": window_s, "sampling_share": share,
                  "samples_per_s": max((len(s.t_s) / (s.t_s[-1] - s.t_s[0]) for s in meter.trace().series
                                        if not s.info.source.endswith("-samples")), default=0)}))
"""


def cost(environment: dict[str, str] | None, repeats: int, seconds: float) -> dict[str, Any]:
    """In fresh processes: medians, and the best of each, which is what the code costs when the machine is quiet.

    Compiled files are kept, as they are where a package is installed.
    """
    found = []
    with tempfile.TemporaryDirectory() as compiled:
        variables = {**(environment or dict(os.environ)), "PYTHONPYCACHEPREFIX": compiled}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        for repeat in range(repeats + 1):
            done = subprocess.run(
                [sys.executable, "-c", IMPORT, str(seconds if repeat else 0.1)], env=variables, check=True,
                capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            # The first run compiles.
            found += [json.loads(done.stdout)] if repeat else []
    return {
        key: {"median": statistics.median(f[key] for f in found), "best": min(f[key] for f in found)}
        for key in found[0]
    }


M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # malloc.h
ROWS = 1024
"""Of the input of the layers that are compared."""


class Steps:
    """A small training, a step at a time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, 10))
        self.optimiser = torch.optim.SGD(self.model.parameters(), 0.01)
        self.x = torch.randn(128, 256)

    def step(self) -> None:
        self.optimiser.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimiser.step()


def slowdown(pairs: int, block_s: float) -> dict[str, Any]:
    """Paired blocks of training with a window around each step, and without; order alternates.

    Wall time is what a user waits, but on a shared machine its noise hides what is looked for; CPU time of the
    process, sampling included, has less of it.
    """
    torch.set_num_threads(1)
    work = Steps()
    for _ in range(30):
        work.step()
    began = time.perf_counter()
    for _ in range(20):
        work.step()
    steps = max(10, round(block_s / ((time.perf_counter() - began) / 20)))

    def plain() -> None:
        for _ in range(steps):
            work.step()

    def timed(meter: Meter | None) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        if meter is None:
            plain()
        else:
            for _ in range(steps):
                with meter.window("step"):
                    work.step()
        return time.perf_counter() - wall, time.process_time() - cpu

    walls, cpus = [], []
    for pair in range(pairs):
        spent: dict[bool, tuple[float, float]] = {}
        for metered in (pair % 2 == 0, pair % 2 == 1):
            if metered:
                with Meter() as meter:
                    plain()  # past the meter's first, denser samples
                    spent[True] = timed(meter)
            else:
                plain()
                spent[False] = timed(None)
        walls.append(spent[True][0] / spent[False][0] - 1)
        cpus.append(spent[True][1] / spent[False][1] - 1)
    found: dict[str, Any] = {"steps_in_a_block": steps, "pairs": pairs}
    for name, ratios in (("wall", walls), ("cpu", cpus)):
        mean, low, high = mean_interval(ratios)
        spread = statistics.stdev(ratios)
        found[name] = {
            "mean": mean, "low": low, "high": high, "median": statistics.median(ratios),
            "pairs_for_an_interval_of_0.1_percent": math.ceil((1.96 * spread / 0.001) ** 2), "every": ratios,
        }  # fmt: skip
    return found


def in_environment(environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """`sampled_steps` in a process of its own, which sees the GPUs of `environment`."""
    done = subprocess.run(
        [sys.executable, __file__, str(seconds)], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


ONE_METER_S = 20.0
NEIGHBOURS = 4
"""Steps on either side that a step is compared with: near enough that the machine is in the same mood."""


def sampled_steps(seconds: float) -> dict[str, Any]:
    """What the meter costs a training that it watches: steps in which it sampled against the steps beside them.

    The sampler's clock knows nothing of the steps, so which of them it falls into is chance: a randomised
    comparison inside one run, whose pairs are milliseconds apart. Fresh meters, so that the pace is the one of a
    run's first seconds, its densest. One window around all steps of a meter, as around an epoch.
    """
    torch.set_num_threads(1)
    work = Steps()
    for _ in range(100):
        work.step()
    differences, hits, windows, wakings, watched_s = [], [], [], 0, 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        with Meter() as meter:
            time.sleep(0.5)  # the meter's first samples, which find the counters' period
            opened = time.perf_counter()
            window = meter.window("epoch").__enter__()
            edges = [time.perf_counter()]
            while edges[-1] - edges[0] < ONE_METER_S:
                work.step()
                edges.append(time.perf_counter())
            window.__exit__(None, None, None)
            windows.append(time.perf_counter() - edges[-1] + edges[0] - opened)
            read = [series.t_s for series in meter.trace().series if not series.info.source.endswith("-samples")]
        lengths = np.diff(edges)
        # What is read at one waking is read within a millisecond.
        places = np.searchsorted(edges, np.unique(np.round(np.concatenate(read), 3))) - 1
        places = places[(places >= 0) & (places < len(lengths))]
        hit = np.zeros(len(lengths), bool)
        hit[places] = True
        beside = np.lib.stride_tricks.sliding_window_view(lengths, 2 * NEIGHBOURS + 1)
        differences.append(beside[:, NEIGHBOURS] - np.median(beside, axis=1))
        hits.append(hit[NEIGHBOURS:-NEIGHBOURS])
        wakings, watched_s = wakings + len(places), watched_s + float(lengths.sum())
    difference, hit = np.concatenate(differences), np.concatenate(hits)
    # A neighbour who takes the core for milliseconds does so whether or not the meter wakes.
    difference = np.clip(difference, *np.quantile(difference, (0.01, 0.99)))
    with_sample, without = difference[hit], difference[~hit]
    waking_s = float(with_sample.mean() - without.mean())
    error_s = float(np.sqrt(with_sample.var() / len(with_sample) + without.var() / len(without)))
    rate = wakings / watched_s
    low_s, high_s = waking_s - 1.96 * error_s, waking_s + 1.96 * error_s
    return {
        "steps": len(hit), "step_s": watched_s / max(1, len(hit)), "steps_with_a_sample": int(hit.sum()),
        "wakings_per_s": rate, "a_waking_s": {"mean": waking_s, "low": low_s, "high": high_s},
        "slowdown": {"mean": waking_s * rate, "low": low_s * rate, "high": high_s * rate},
        "a_window_s": statistics.median(windows),
    }  # fmt: skip


def _keep_freed_memory() -> None:
    """Ask the C library, where it is glibc, to map nothing for single blocks and to give nothing back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def attribution(rounds: int) -> dict[str, Any]:
    """CPU time of each layer inside a model against the same layer repeated alone, alternating.

    Layers are large, for alone each one also pays for starting autograd, which inside a model belongs to no layer.
    Freed memory stays with the process: given back, it costs page faults when it is next asked for, at places that
    differ from one arrangement of the same layers to another and have nothing to do with the attribution.
    Other work on the machine only ever makes either side slower, so the fastest of the rounds are compared as well.
    """
    _keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1024), nn.LayerNorm(1024), nn.Linear(1024, 512)
    ]  # fmt: skip
    sizes = [512, 512, 512, 1024, 1024]
    model, x = nn.Sequential(*layers), torch.randn(ROWS, 512)

    inputs = [torch.randn(ROWS, size, requires_grad=i > 0) for i, size in enumerate(sizes)]
    gradients = [torch.randn_like(layer(given)) for layer, given in zip(layers, inputs, strict=True)]

    def alone(i: int) -> float:
        # Twice, and the second counts: inside the model the layer before has just written what this one reads.
        for _ in range(2):
            inputs[i].grad = None
            began = time.thread_time()
            layers[i](inputs[i]).backward(gradients[i])
            spent = time.thread_time() - began
        return spent

    for _ in range(3):
        model(x).sum().backward()
    names = [f"{i} {type(layer).__name__}" for i, layer in enumerate(layers)]
    inside: dict[str, list[float]] = {name: [] for name in names}
    isolated: dict[str, list[float]] = {name: [] for name in names}
    residual = []
    for _ in range(rounds):
        with Meter([CpuTimeModel()]) as meter, meter.attribute(model) as found:
            model(x).sum().backward()
        spent = {cost.name: cost.forward_s + cost.backward_s for cost in found.modules}
        assert found.residual is not None
        assert found.total is not None
        residual.append((found.residual.energy.joules or 0.0) / (found.total.joules or 1.0))
        for i, name in enumerate(names):
            inside[name].append(spent[str(i)])
            isolated[name].append(alone(i))
    middle = {name: statistics.median(inside[name]) / statistics.median(isolated[name]) for name in names}
    fastest = {name: min(inside[name]) / min(isolated[name]) for name in names}
    return {
        "ratio_to_isolated_repeats": middle,
        "ratio_of_the_fastest": fastest,
        "worst": max(abs(ratio - 1) for ratio in middle.values()),
        "worst_of_the_fastest": max(abs(ratio - 1) for ratio in fastest.values()),
        "residual_share": statistics.median(residual),
        "rounds": rounds,
    }


if __name__ == "__main__":
    print(json.dumps(sampled_steps(float(sys.argv[1]))))
