"""False alarms and power of `clisonix gate`, and coverage of the intervals of `clisonix compare`, by simulation.

Every simulated pair of sides goes through the gate's own code. Rates come with their 95 % Wilson intervals.

- *False alarms at the margin*: the true regression equals the margin, the worst case of the tested hypothesis.
- *False alarms without change*: both sides are the same program, the margin is two standard deviations of a run.
- *Power*: the true regression is the one that the gate advertises ("would see") for the true spread.
- *Coverage*: how often the 95 % interval of one run against one holds the true ratio of the two processes.

Noise per run or epoch, all with one standard deviation: normal; heavy-tailed (Student's t, 3 degrees of freedom);
skewed (log-normal); rare slow-downs (one run in ten, exponential, mean five standard deviations of the rest);
autocorrelated (first order, 0.5 from run to run, or from epoch to epoch as named). Runs are made alternately,
except where `blocked`: all of a, then all of b.

    python scripts/bench/gate.py --json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clisonix.meter.comparing.gate import ADVERTISED, LEVEL, decide, judge
from clisonix.meter.comparing.group_difference import Contrast, contrast
from clisonix.meter.comparing.intervals import wilson
from clisonix.meter.comparing.metrics import Measured
from clisonix.meter.comparing.planning import detectable, typical_freedom
from clisonix.meter.comparing.within_run import within_series

Floats = NDArray[np.float64]
SPREAD = 0.01
"""Standard deviation of one run's log energy."""
MARGIN = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs of sides per cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of tables")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error("--pairs must be 1 or more")
    rng = np.random.default_rng(arguments.seed)
    gate = [gate_cell(*cell, arguments.pairs, rng) for cell in gate_cells()]
    coverage = [coverage_cell(*cell, arguments.pairs, rng) for cell in coverage_cells()]
    if arguments.json:
        found = {"pairs": arguments.pairs, "seed": arguments.seed, "level": LEVEL, "margin": MARGIN, "spread": SPREAD}
        print(json.dumps({**found, "gate": gate, "coverage": coverage}))
        return
    show(f"gate, margin {MARGIN:.0%}, spread of a run {SPREAD:.0%}", gate)
    show("intervals of one run against one, spread of an epoch 5 %", coverage)


def gate_cells() -> list[tuple[str, str, int]]:
    cells = [
        (design, noise, n)
        for design in ("paired", "unpaired")
        for noise in ("normal", "heavy", "skewed", "slow-downs", "auto")
        for n in (3, 5, 10)
    ]
    cells += [("one against n", noise, 25) for noise in ("normal", "heavy", "skewed", "slow-downs", "auto")]
    return [*cells, ("paired, blocked", "auto", 5), ("unpaired, blocked", "auto", 5)]


def coverage_cells() -> list[tuple[str, int]]:
    noises = ("normal", "heavy", "skewed", "auto 0.3", "auto 0.6", "auto 0.8")
    return [(noise, n) for noise in noises for n in (5, 6, 8, 10, 20, 50)]


def gate_cell(design: str, noise: str, n: int, pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    seen = advertised(design, n)
    rates = {"at_margin": math.log1p(MARGIN), "no_change": 0.0}
    if seen is not None:
        rates["power"] = math.log1p(MARGIN) + seen
    found: dict[str, Any] = {"design": design, "noise": noise, "runs": n}
    if seen is not None:
        found["advertised_regression"] = math.expm1(rates["power"])
    for name, effect in rates.items():
        alarms = 0
        for _ in range(pairs):
            values = SPREAD * draw(noise, (2 * n,), rng)
            a, b = (values[:n], values[n:]) if "blocked" in design else (values[::2], values[1::2])
            alarms += alarm(a, (b if "against" not in design else b[:1]) + effect, design.startswith("paired"))
        found[name] = rate(alarms, pairs)
    return found


def alarm(a: Floats, b: Floats, paired: bool) -> bool:
    """Whether the gate reports a regression of energies exp(b) against exp(a)."""
    seeds_a = list(range(len(a)))
    seeds_b = seeds_a if paired else list(range(100, 100 + len(b)))
    found = contrast(a.tolist(), b.tolist(), seeds_a, seeds_b)
    if found is not None:
        return decide(found, math.log1p(MARGIN))[0] == "regress"
    joules = [np.exp(side).tolist() for side in (a, b)]
    return judge(Measured("energy", "J", True, *joules, None, None, "", "", ""), MARGIN).verdict == "regress"


def advertised(design: str, n: int) -> float | None:
    """What the gate advertises beyond the margin, for the true spread; None where it advertises nothing."""
    if "against" in design or "blocked" in design:
        return None
    freedom = typical_freedom(n, design == "paired")
    true = Contrast(0.0, SPREAD * math.sqrt(2 / n), freedom, SPREAD, n, n, design == "paired")
    return detectable(true, LEVEL, ADVERTISED)


def coverage_cell(noise: str, n: int, pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    held, halves, plain = 0, [], 0
    for _ in range(pairs):
        series = [[(1 + 0.05 * draw(noise, (n,), rng)).tolist()] for _ in range(2)]
        totals = [sum(side[0]) for side in series]
        found = within_series(series[0], series[1], totals[0], totals[1])
        low, high = found.interval()
        held += low <= 0.0 <= high
        halves.append((high - low) / 2)
        plain += bootstrap_holds(np.array(series[0][0]), np.array(series[1][0]), rng)
    return {
        "noise": noise, "epochs": n, "coverage": rate(held, pairs),
        "half_width_percent": 100 * float(np.median(halves)), "plain_bootstrap": rate(plain, pairs),
    }  # fmt: skip


def bootstrap_holds(a: Floats, b: Floats, rng: np.random.Generator, resamples: int = 500) -> bool:
    """Whether the percentile bootstrap over independent epochs holds the true ratio, for comparison."""
    mean_a, mean_b = (x[rng.integers(0, len(x), (resamples, len(x)))].mean(axis=1) for x in (a, b))
    low, high = np.percentile(mean_b / mean_a, [2.5, 97.5])
    return bool(low <= 1.0 <= high)


def draw(noise: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Noise with mean 0 and standard deviation 1."""
    kind, _, number = noise.partition(" ")
    if kind == "auto":
        return autoregression(float(number or 0.5), shape[0], rng)
    make: dict[str, Callable[[], Floats]] = {
        "normal": lambda: rng.standard_normal(shape),
        "heavy": lambda: rng.standard_t(3, shape) / math.sqrt(3),
        "skewed": lambda: (rng.lognormal(0, 1, shape) - math.exp(0.5)) / math.sqrt(math.exp(2) - math.e),
        "slow-downs": lambda: slow_downs(shape, rng),
    }
    return make[kind]()


def slow_downs(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    values = rng.standard_normal(shape) + np.where(rng.random(shape) < 0.1, rng.exponential(5.0, shape), 0.0)
    # Mean 0.5; variance 1 + 0.1 * 2 * 25 - 0.25.
    return (values - 0.5) / math.sqrt(1 + 5.0 - 0.25)


def autoregression(step: float, n: int, rng: np.random.Generator) -> Floats:
    values = rng.standard_normal(n)
    for i in range(1, n):
        values[i] = step * values[i - 1] + math.sqrt(1 - step * step) * values[i]
    return values


def rate(hits: int, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {"rate": hits / n, "low": low, "high": high}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    for row in rows:
        print("  " + ", ".join(f"{key.replace('_', ' ')} {text(value)}" for key, value in row.items()))


def text(value: dict[str, float] | float | str) -> str:
    if isinstance(value, dict):
        return f"{100 * value['rate']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
