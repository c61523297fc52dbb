"""A counter's 95 % interval holds the truth about as often as it says; its figures are close, unbiased and add up."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from virtual_gpus import BEGAN_S, SAMPLE_COST_S, Played, play

from clisonix.meter import Span

GPUS = 8
SECONDS = 30.0


def steady(rng: np.random.Generator) -> str:
    watts = rng.uniform(60, 690)
    return f"load steady {watts:.1f}\nwobble {0.01 * watts:.2f} {rng.uniform(0.05, 2):.3f}\n"


def square(rng: np.random.Generator) -> str:
    low, high = np.sort(rng.uniform(60, 690, 2))
    return f"load square {low:.1f} {high:.1f} {np.exp(rng.uniform(-3, 1.4)):.4f} {rng.uniform(0.2, 0.8):.3f}\n"


def bursts(rng: np.random.Generator) -> str:
    gap_s, length_s = np.exp(rng.uniform(-2.3, 0)), rng.uniform(0.005, 0.08)
    return f"load random {rng.uniform(60, 150):.1f} {rng.uniform(200, 690):.1f} {gap_s:.3f} {length_s:.4f} 7\n"


def resets(rng: np.random.Generator) -> str:
    return steady(rng) + "".join(f"fault reset {10 + at:.2f}\n" for at in np.sort(rng.uniform(1, SECONDS - 1, 4)))


def drop_outs(rng: np.random.Generator) -> str:
    starts = np.sort(rng.uniform(1, SECONDS - 3, 4))
    return square(rng) + "".join(
        f"fault error {10 + at:.3f} {10 + at + rng.uniform(0.2, 1.5):.3f} 999\n" for at in starts
    )


@pytest.fixture(scope="module", params=[0.0, SAMPLE_COST_S], ids=["every tick", "as often as samples may cost"])
def played(
    library: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Played]:
    rng = np.random.default_rng(5)
    found = {}
    for load in (steady, square, bursts, resets, drop_outs):
        gpus = [
            load(rng) + f"phase_s {rng.uniform(0, 0.1):.4f}\njitter_s {rng.uniform(0, 0.003):.5f}"
            for _ in range(GPUS)
        ]
        folder = tmp_path_factory.mktemp("gpus")
        found[load.__name__] = play(library, folder, gpus, SECONDS, cost_s=request.param)
    return found


def test_the_interval_covers_and_the_bounds_always_hold(played: dict[str, Played]) -> None:
    rng = np.random.default_rng(1)
    covered: dict[str, list[bool]] = {}
    for load, run in played.items():
        for gpu in range(GPUS):
            for _ in range(40):
                length_s = float(np.exp(rng.uniform(np.log(0.05), np.log(8))))
                start_s = BEGAN_S + float(rng.uniform(0.5, SECONDS - 1 - length_s))
                found = run.energy(gpu, start_s, start_s + length_s)
                truth = run.truth(gpu, start_s, start_s + length_s)
                assert found.joules is not None
                assert found.low is not None
                assert found.high is not None
                assert found.at_least is not None
                assert found.at_most is not None
                assert found.at_least - 0.01 <= truth <= found.at_most + 0.01, (load, gpu, start_s)
                assert found.at_least <= found.low <= found.joules <= found.high <= found.at_most
                covered.setdefault(load, []).append(found.low - 1e-6 <= truth <= found.high + 1e-6)
    share = {load: float(np.mean(hits)) for load, hits in covered.items()}
    assert min(share.values()) > 0.85, share
    assert 0.92 < np.mean(list(share.values())) < 0.99, share


@pytest.mark.parametrize(("length_s", "worst"), [(0.73, 0.01), (3.3, 0.002)])
def test_on_steady_load_the_figure_is_close(played: dict[str, Played], length_s: float, worst: float) -> None:
    run, errors = played["steady"], []
    for gpu in range(GPUS):
        for start_s in np.linspace(BEGAN_S + 1, BEGAN_S + SECONDS - 5, 25).tolist():
            truth = run.truth(gpu, start_s, start_s + length_s)
            errors.append((run.energy(gpu, start_s, start_s + length_s).joules or 0.0) / truth - 1)
    assert math.sqrt(float(np.mean(np.square(errors)))) < worst


@pytest.mark.parametrize("step_s", [0.02, 0.05])
def test_short_steps_are_unbiased_and_add_up_to_the_whole(played: dict[str, Played], step_s: float) -> None:
    run, gpu = played["steady"], 3
    edges = (BEGAN_S + 2 + step_s * np.arange(401)).tolist()
    steps = [run.energy(gpu, a, b).joules or 0.0 for a, b in pairwise(edges)]
    truth = [run.truth(gpu, a, b) for a, b in pairwise(edges)]
    assert abs(np.mean(np.array(steps) / np.array(truth)) - 1) < 0.01
    whole = run.energy(gpu, edges[0], edges[-1]).joules
    assert sum(steps) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("load", ["square", "bursts", "resets", "drop_outs"])
def test_windows_that_follow_one_another_add_up_on_every_load(played: dict[str, Played], load: str) -> None:
    run = played[load]
    edges = (BEGAN_S + np.sort(np.random.default_rng(2).uniform(1, SECONDS - 1, 60))).tolist()
    for gpu in range(GPUS):
        parts = [run.energy(gpu, a, b).joules or 0.0 for a, b in pairwise(edges)]
        assert sum(parts) == pytest.approx(run.energy(gpu, edges[0], edges[-1]).joules, rel=1e-9)


def test_windows_of_one_name_are_estimated_together(played: dict[str, Played]) -> None:
    run, gpu = played["square"], 2
    starts = BEGAN_S + 1 + 0.13 * np.arange(150)
    spans = [Span("w", float(a), float(a) + 0.06) for a in starts]
    found = run.counter(gpu).energy(spans)
    apart = [run.counter(gpu).energy([span]) for span in spans]
    truth = sum(run.truth(gpu, span.start_s, span.end_s) for span in spans)
    assert found.joules == pytest.approx(sum(part.joules or 0.0 for part in apart), rel=1e-9)
    assert (found.low or 0.0) <= truth <= (found.high or 0.0)
    # Errors of different ticks cancel in part: the sum is known better than its parts together.
    width = (found.high or 0.0) - (found.low or 0.0)
    assert width < 0.5 * sum((part.high or 0.0) - (part.low or 0.0) for part in apart)


def test_a_load_that_begins_and_ends_with_its_window_is_not_smeared(library: Path, tmp_path: Path) -> None:
    # 700 ms of work, 500 ms of idling, out of step with the counter.
    run = play(library, tmp_path, ["load phases 500 0.7 100 0.5\nphase_s 0.013"], 30.0)
    errors = []
    for k in range(20):
        start_s = BEGAN_S - 10.0 + 1.2 * (k + 10)
        found = run.energy(0, start_s, start_s + 0.7)
        truth = run.truth(0, start_s, start_s + 0.7)
        errors.append((found.joules or 0.0) / truth - 1)
        assert (found.low or 0.0) - 1e-6 <= truth <= (found.high or 0.0) + 1e-6
    # Straight lines between ticks would lose 4 % on average.
    assert abs(float(np.mean(errors))) < 0.01


def test_power_samples_betray_switching_that_the_counter_averages_out(library: Path, tmp_path: Path) -> None:
    # Exactly two periods a tick: every tick of the counter is the same.
    load = "load square 100 600 0.05 0.5\n"
    with_samples, without = (
        play(library, tmp_path, [load], 20.0, samples=samples).energy(0, BEGAN_S + 3.02, BEGAN_S + 4.513)
        for samples in (True, False)
    )
    assert (with_samples.high or 0) - (with_samples.low or 0) > 3 * ((without.high or 0) - (without.low or 0))


def test_on_a_busy_machine_a_reset_stays_inside_its_interval(library: Path, tmp_path: Path) -> None:
    # A fifth of the samples is up to 0.1 s late, in runs too short to learn the counter's period well.
    inside, before, worst = [], [], 0.0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        gpus = [
            f"load steady 500\nphase_s {rng.uniform(0, 0.1):.4f}\nfault reset {rng.uniform(12.5, 13.5):.3f}\n"
            for _ in range(16)
        ]
        run = play(library, tmp_path, gpus, 6.0, seed=seed, very_late=(0.2, 0.1))
        for gpu in range(len(gpus)):
            for start, end, hits in ((1.6, 4.4, inside), (0.7, 1.6, before)):
                found = run.energy(gpu, BEGAN_S + start, BEGAN_S + end)
                truth = run.truth(gpu, BEGAN_S + start, BEGAN_S + end)
                hits.append((found.low or 0.0) <= truth <= (found.high or 0.0))
                worst = max(worst, abs((found.joules or 0.0) / truth - 1))
    assert np.mean(inside) > 0.98, np.mean(inside)
    assert np.mean(before) > 0.9, np.mean(before)
    # No tick was taken for its neighbour.
    assert worst < 0.03, worst


@pytest.mark.parametrize("period_s", [0.09, 0.1, 0.11])
def test_power_samples_show_steps_that_keep_time_with_the_counter(
    library: Path, tmp_path: Path, period_s: float
) -> None:
    rng, hits, widths = np.random.default_rng(3), [], []
    gpus = [
        f"load square 150 600 {period_s} {duty}\nphase_s {0.01 * k}" for k, duty in enumerate((0.3, 0.5, 0.7) * 3)
    ]
    run = play(library, tmp_path, gpus, 20.0)
    for gpu in range(len(gpus)):
        for start_s in (BEGAN_S + rng.uniform(1, 15, 30)).tolist():
            found = run.energy(gpu, start_s, start_s + 0.73)
            truth = run.truth(gpu, start_s, start_s + 0.73)
            hits.append((found.low or 0.0) <= truth <= (found.high or 0.0))
            widths.append(((found.high or 0.0) - (found.low or 0.0)) / truth)
    # Every tick of the counter is alike, so that alone it would take the load for steady and be right in a third.
    assert np.mean(hits) > 0.8, np.mean(hits)
    assert np.median(widths) < 0.15
