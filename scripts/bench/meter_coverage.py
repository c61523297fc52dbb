"""How often the meter's intervals hold the truth, in virtual time on the stand-in library.

The real binding, sensors, pace and recorder run on the library's clock, which is moved along by hand, so that an hour
passes in a minute. Sampling is as late now and then as a busy machine makes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from virtual_gpus import BEGAN_S, SAMPLE_COST_S, Played, play

from clisonix.meter import mean_interval

GPUS = 64
SECONDS = 60.0
WINDOWS = 40
"""For each GPU: 64 x 40 windows of each kind of load."""
Make = Callable[[np.random.Generator], str]


def steady(rng: np.random.Generator) -> str:
    watts = rng.uniform(60, 690)
    wobble_w = watts * rng.choice([0, 0.003, 0.01, 0.02])
    return f"load steady {watts:.1f}\nwobble {wobble_w:.2f} {np.exp(rng.uniform(np.log(0.05), np.log(2))):.3f}\n"


def _square(rng: np.random.Generator, shortest_s: float, longest_s: float) -> str:
    low, high = np.sort(rng.uniform(60, 690, 2))
    period_s = np.exp(rng.uniform(np.log(shortest_s), np.log(longest_s)))
    return f"load square {low:.1f} {high:.1f} {period_s:.4f} {rng.uniform(0.2, 0.8):.3f}\n"


def square(rng: np.random.Generator) -> str:
    return _square(rng, 0.05, 4.0)


def fast(rng: np.random.Generator) -> str:
    return _square(rng, 0.01, 0.05)


def bursts(rng: np.random.Generator) -> str:
    gap_s, length_s = np.exp(rng.uniform(np.log(0.1), 0)), rng.uniform(0.005, 0.08)
    seed = int(rng.integers(1, 1_000_000))
    return f"load random {rng.uniform(60, 150):.1f} {rng.uniform(200, 690):.1f} {gap_s:.3f} {length_s:.4f} {seed}\n"


def ramp(rng: np.random.Generator) -> str:
    low, high = np.sort(rng.uniform(60, 690, 2))
    return f"load ramp {low:.1f} {high:.1f} {np.exp(rng.uniform(0, np.log(20))):.2f}\n"


def training(rng: np.random.Generator) -> str:
    step_s = np.exp(rng.uniform(np.log(0.06), np.log(0.8)))
    phases = zip(
        (rng.uniform(90, 200), rng.uniform(300, 500), rng.uniform(400, 690), rng.uniform(150, 350)),
        (0.1, 0.3, 0.45, 0.15),
        strict=True,
    )
    return "load phases " + " ".join(f"{watts:.1f} {step_s * share:.4f}" for watts, share in phases) + "\n"


def _any(rng: np.random.Generator) -> str:
    return (steady, square, bursts)[int(rng.integers(3))](rng)


def resets(rng: np.random.Generator) -> str:
    moments = np.sort(rng.uniform(1, SECONDS - 2, 8))
    return _any(rng) + "".join(f"fault reset {10 + at:.2f}\n" for at in moments)


def drop_outs(rng: np.random.Generator) -> str:
    text = _any(rng)
    for at in np.sort(rng.uniform(1, SECONDS - 3, 10)):
        length_s = np.exp(rng.uniform(np.log(0.2), np.log(2)))
        text += f"fault error {10 + at:.3f} {10 + at + length_s:.3f} 999\n"
    return text


PROMISED: dict[str, Make] = {
    "steady": steady, "square wave": square, "bursts": bursts, "resets": resets, "drop-outs": drop_outs,
}  # fmt: skip
FURTHER: dict[str, Make] = {"switching within a tick": fast, "ramps": ramp, "training steps": training}


def coverage(library: Path, folder: Path, quick: bool, average_s: float | None = 0.0) -> dict[str, Any]:
    """Coverage by kind of load, and over the five kinds that are promised together.

    Windows of one GPU share its load and its counter's phase; the intervals of the coverage are therefore Student's t
    over the GPUs.

    Args:
        library: the stand-in.
        folder: for its configuration.
        quick: few windows.
        average_s: each of the driver's power samples is a mean over so many seconds; None: the driver keeps none.
    """
    rng = np.random.default_rng(20)
    gpus, windows = (8, 16) if quick else (GPUS, WINDOWS)
    rows: dict[str, Any] = {}
    shares: dict[str, list[float]] = {}
    for kind, make in {**PROMISED, **FURTHER}.items():
        options = []
        for _ in range(gpus):
            jitter_s = 1.7 * rng.choice([0, 0.0003, 0.001, 0.002])
            options.append(
                make(rng) + f"phase_s {rng.uniform(0, 0.1):.4f}\njitter_s {jitter_s:.5f}\n"
                f"sample_average_s {average_s or 0.0}\n"
            )  # fmt: skip
        run = play(library, folder, options, SECONDS, seed=3, samples=average_s is not None, cost_s=SAMPLE_COST_S)
        rows[kind], shares[kind] = _row(run, rng, windows)
    held = [share for kind in PROMISED for share in shares[kind]]
    _, low, high = mean_interval(held)
    count = sum(rows[kind]["windows"] for kind in PROMISED)
    total = {"windows": count, "covered": float(np.mean(held)), "low": low, "high": high}
    return {"by_load": rows, "promised_loads_together": total}


def _row(run: Played, rng: np.random.Generator, windows: int) -> tuple[dict[str, Any], list[float]]:
    hit, bounded, error, half, truths, raw = [], [], [], [], [], []
    unknown: list[str] = []
    shares = []
    for gpu in range(len({s.info.device for s in run.trace.series})):
        series, first = run.counter(gpu), len(hit)
        for _ in range(windows):
            length_s = float(np.exp(rng.uniform(np.log(0.05), np.log(8))))
            start_s = BEGAN_S + float(rng.uniform(0.5, SECONDS - 1 - length_s))
            found, truth = run.energy(gpu, start_s, start_s + length_s), run.truth(gpu, start_s, start_s + length_s)
            if found.joules is None or found.low is None or found.high is None:
                unknown.append(str(found.code))
                continue
            at_least, at_most = found.at_least or 0.0, found.at_most or 0.0
            hit.append(found.low - 1e-6 <= truth <= found.high + 1e-6)
            bounded.append(at_least - 0.002 <= truth <= at_most + 0.002)
            error.append(found.joules - truth)
            half.append((found.high - found.low) / 2)
            truths.append(truth)
            edges = np.searchsorted(series.t_s, [start_s, start_s + length_s], side="right") - 1
            raw.append(float(series.joules[edges[1]] - series.joules[edges[0]]) - truth)
        shares.append(float(np.mean(hit[first:])))
    errors, truth_j, raw_j = np.array(error), np.array(truths), np.array(raw)
    _, low, high = mean_interval(shares)
    return {
        "windows": len(hit),
        "unknown": len(unknown),
        "covered": float(np.mean(hit)),
        "covered_low": low,
        "covered_high": high,
        "hard_bounds_hold": float(np.mean(bounded)),
        "rms_error_j": float(np.sqrt(np.mean(errors**2))),
        "rms_error_of_the_raw_counter_j": float(np.sqrt(np.mean(raw_j**2))),
        "bias": float(errors.sum() / truth_j.sum()),
        "median_half_width": float(np.median(np.array(half) / truth_j)),
    }, shares


def accuracy(library: Path, folder: Path, quick: bool) -> dict[str, Any]:
    """Steady load: error by length of window; steps of 20 and 50 ms: bias and closure."""
    rng = np.random.default_rng(4)
    count = 8 if quick else 24
    options = [
        f"load steady 500\nwobble {rng.choice([0, 5])} 0.31\nphase_s {rng.uniform(0, 0.1):.4f}\njitter_s 0.001\n"
        for _ in range(count)
    ]
    run = play(library, folder, options, 40.0, seed=5, samples=False, cost_s=SAMPLE_COST_S)
    found: dict[str, Any] = {"steady_rms": {}, "steps": {}}
    for length_s in (0.13, 0.73, 3.3):
        errors = []
        for gpu in range(count):
            for start_s in (BEGAN_S + 1 + rng.uniform(0, 33, 40)).tolist():
                truth = run.truth(gpu, start_s, start_s + length_s)
                errors.append((run.energy(gpu, start_s, start_s + length_s).joules or 0.0) / truth - 1)
        found["steady_rms"][f"{length_s} s"] = float(np.sqrt(np.mean(np.square(errors))))
    for step_s in (0.02, 0.05):
        edges = (BEGAN_S + 3 + step_s * np.arange(501)).tolist()
        ratios, open_j = [], []
        for gpu in range(count):
            joules = [run.energy(gpu, a, b).joules or 0.0 for a, b in itertools.pairwise(edges)]
            truth_j = [run.truth(gpu, a, b) for a, b in itertools.pairwise(edges)]
            ratios.append(float(np.mean(np.array(joules) / np.array(truth_j))))
            open_j.append(abs(sum(joules) - (run.energy(gpu, edges[0], edges[-1]).joules or 0.0)))
        found["steps"][f"{step_s} s"] = {
            "mean_bias": float(np.mean(ratios)) - 1,
            "worst_bias_of_a_gpu": float(np.max(np.abs(np.array(ratios) - 1))),
            "sum_differs_from_whole_j": float(np.max(open_j)),
        }
    return found
