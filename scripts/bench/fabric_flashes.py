"""Flashes of a screen that two sensors on two clocks saw."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fabric_truths import load, ms

from clisonix.fabric.clocks import Clock, blind, edges, from_anchors, from_samples, match_events, pair_events

FLASHES = "openmuse/test-13-dev.xdf"


def flashes(root: Path) -> dict[str, Any]:
    """Four anchors against the other fourteen edges; truth: the light sensor's edges.

    The truth itself is no better than edges are: 0.9 ms each where the 64 Hz sensor's crossings are read off, a third
    of that where shapes are matched. So the rate of all edges has an error of its own, told beside it, and the rate
    of the fourteen others, which shares nothing with the four, is told too.
    """
    raw = load(root / FLASHES, dejitter_timestamps=False)
    ready = load(root / FLASHES)

    def stream(name: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return next(s for key, s in files.items() if key.startswith(name))

    light, optics = stream("OpenSignals", raw), stream("Muse_OPTICS", raw)
    signals = light["time_series"][:, 3], optics["time_series"][:, 6]
    light_clock = from_samples(light["time_stamps"], 1000, counter=light["time_series"][:, 0])
    light_s = light_clock(np.arange(len(signals[0])))
    optics_s = from_samples(optics["time_stamps"], 64)(np.arange(len(signals[1])))
    seen, shown = edges(signals[1], optics_s), edges(signals[0], light_s)
    a, b = pair_events(seen.times_s, shown.times_s, within_s=0.1)
    own, fabric = seen.times_s[a], shown.times_s[b]
    whole = from_anchors(own, fabric)
    all_rate = whole.segments[0].rate_ppm

    def matched(used: npt.NDArray[np.bool_]) -> Clock:
        """From these edges alone: nothing of the others is looked at."""
        fine = match_events(signals[1], optics_s, signals[0], light_s, own[used], fabric[used])
        return from_anchors(own[used], fine)

    every = matched(np.ones(len(own), np.bool_)).segments[0]

    def score(chosen: tuple[int, ...], fine: bool) -> dict[str, float]:
        used = np.isin(np.arange(len(own)), chosen)
        clock = matched(used) if fine else from_anchors(own[used], fabric[used])
        error = clock(own[~used]) - fabric[~used]
        # The edges that are scored are themselves no better than what all of them leave of their line.
        bound = np.hypot(clock.uncertainty(own[~used]), 2 * whole.segments[0].residual_sd_s)
        covered = round(float(np.mean(np.abs(error) <= bound)), 3)
        line = clock.segments[0]
        return {
            **ms(error),
            "rate_se_ppm": round(line.rate_sd_ppm, 1),
            "rate_error_ppm": round(line.rate_ppm - every.rate_ppm, 1),
            "rate_error_to_crossings_ppm": round(line.rate_ppm - all_rate, 1),
            "covered": covered,
        }

    def many(fine: bool) -> dict[str, Any]:
        scores = [score(c, fine) for c in spread]
        return {
            "choices": len(scores),
            "median_ms_worst": max(s["median_ms"] for s in scores),
            "median_ms_typical": float(np.median([s["median_ms"] for s in scores])),
            "max_ms_worst": max(s["max_ms"] for s in scores),
            "rate_error_ppm_typical": float(np.median([abs(s["rate_error_ppm"]) for s in scores])),
            "rate_within_20_ppm": round(float(np.mean([abs(s["rate_error_ppm"]) <= 20 for s in scores])), 3),
            "covered": round(float(np.mean([s["covered"] for s in scores])), 3),
        }

    last = len(own) - 1
    ends = (0, 1, last - 1, last)
    held = matched(~np.isin(np.arange(len(own)), ends)).segments[0]
    spread = [c for c in itertools.combinations(range(len(own)), 4) if c[1] <= 5 and c[2] >= last - 5]
    found = blind(signals[1], optics_s, signals[0], light_s)
    line = found.segments[0]
    # pyxdf knows no anchors: how far the streams run apart, the mean offset of sensors taken off.
    theirs = [
        edges(stream(name, ready)["time_series"][:, row], stream(name, ready)["time_stamps"]).times_s
        for name, row in (("Muse_OPTICS", 6), ("OpenSignals", 3))
    ]
    apart = theirs[1] - theirs[0]
    return {
        "edges": len(own),
        "rate_ppm_all_edges": round(all_rate, 1),
        "rate_se_ppm_all_edges": round(whole.segments[0].rate_sd_ppm, 1),
        "residual_sd_ms_all_edges": round(1e3 * whole.segments[0].residual_sd_s, 3),
        "rate_ppm_all_edges_matched": round(every.rate_ppm, 1),
        "rate_se_ppm_all_edges_matched": round(every.rate_sd_ppm, 1),
        "residual_sd_ms_all_edges_matched": round(1e3 * every.residual_sd_s, 3),
        "rate_ppm_held_out_matched": round(held.rate_ppm, 1),
        "rate_se_ppm_held_out_matched": round(held.rate_sd_ppm, 1),
        "anchors_first_two_last_two": score(ends, True),
        "anchors_first_two_last_two_by_crossings": score(ends, False),
        "anchors_any_two_early_two_late": many(True),
        "anchors_any_two_early_two_late_by_crossings": many(False),
        "blind": {
            **ms(found(own) - fabric),
            "rate_error_ppm": round(line.rate_ppm - every.rate_ppm, 1),
            "covered_rate": bool(
                abs(found.segments[0].rate_ppm - every.rate_ppm) < 2 * found.segments[0].rate_sd_ppm
            ),
        },
        "pyxdf": {
            "drift_left_ms": round(1e3 * float(np.ptp(np.polyval(np.polyfit(theirs[0], apart, 1), theirs[0]))), 1),
            **ms(apart - np.mean(apart)),
        },
    }
