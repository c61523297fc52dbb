"""Clocks against known truths on real recordings, beside pyxdf on the same files.

    python scripts/bench/fabric_clocks.py --data DIR [--json]

Four claims: flashes that two sensors saw line up; samples lost inside a stream are found and leave no error; a causal
clock follows a device over Bluetooth; on clean files the stamps are those of pyxdf. What serves as truth is said with
each result. No constant of the package was fitted to these files but those named under `tuned`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyxdf

from clisonix.fabric.clocks import (
    CausalClock,
    Clock,
    blind,
    edges,
    from_anchors,
    from_device,
    from_offsets,
    from_samples,
    pair_events,
)

FloatArray = npt.NDArray[np.float64]

CAPTURES = ("test_accgyro", "test_eeg_quality")
SENSORS = ("EEG", "OPTICS", "ACCGYRO")
CLEAN = (
    "openmuse/test-13-dev.xdf",
    "bci_essentials/switch_example.xdf",
    "bci_essentials/ssvep_example.xdf",
    "xdf_examples/clock_resets.xdf",
    "xdf_examples/minimal.xdf",
)
TUNED = {
    "both captures": "losses: the 6 deviations, and what is too near an end, were chosen while looking at them;"
    " causal clock: 30 s was taken after 60 and 120 s came to 2.0 ms at worst, 100 ppm before any run",
    "ssvep_example, clock_resets": "losses: 4 standard errors and 0.5 of the step in the gap, after false ones here",
    "test-13-dev": "edges: other levels and the area under an edge were tried and were no better; nothing was fitted",
}


def load(path: Path, **options: bool) -> dict[str, dict[str, Any]]:
    streams, _ = pyxdf.load_xdf(str(path), **options)
    return {f"{s['info']['name'][0]}/{s['info']['stream_id']}": s for s in streams}


def ms(values: FloatArray) -> dict[str, float]:
    error = 1e3 * np.abs(values)
    return {"median_ms": round(float(np.median(error)), 3), "max_ms": round(float(error.max()), 3)}


def flashes(root: Path) -> dict[str, Any]:
    """Four anchors against the other fourteen edges; truth: the light sensor's edges."""
    raw = load(root / CLEAN[0], dejitter_timestamps=False)
    ready = load(root / CLEAN[0])

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

    def score(chosen: tuple[int, ...]) -> dict[str, float]:
        used = np.isin(np.arange(len(own)), chosen)
        clock = from_anchors(own[used], fabric[used])
        error = clock(own[~used]) - fabric[~used]
        # The edges that are scored are themselves no better than what all of them leave of their line.
        bound = np.hypot(clock.uncertainty(own[~used]), 2 * whole.segments[0].residual_sd_s)
        covered = round(float(np.mean(np.abs(error) <= bound)), 3)
        return {**ms(error), "rate_error_ppm": round(clock.segments[0].rate_ppm - all_rate, 1), "covered": covered}

    last = len(own) - 1
    spread = [c for c in itertools.combinations(range(len(own)), 4) if c[1] <= 5 and c[2] >= last - 5]
    scores = [score(c) for c in spread]
    found = blind(signals[1], optics_s, signals[0], light_s)
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
        "anchors_first_two_last_two": score((0, 1, last - 1, last)),
        "anchors_any_two_early_two_late": {
            "choices": len(scores),
            "median_ms_worst": max(s["median_ms"] for s in scores),
            "median_ms_typical": float(np.median([s["median_ms"] for s in scores])),
            "max_ms_worst": max(s["max_ms"] for s in scores),
            "rate_error_ppm_typical": float(np.median([abs(s["rate_error_ppm"]) for s in scores])),
            "rate_within_20_ppm": round(float(np.mean([abs(s["rate_error_ppm"]) <= 20 for s in scores])), 3),
            "covered": round(float(np.mean([s["covered"] for s in scores])), 3),
        },
        "blind": {
            **ms(found(own) - fabric),
            "rate_error_ppm": round(found.segments[0].rate_ppm - all_rate, 1),
            "covered_rate": bool(abs(found.segments[0].rate_ppm - all_rate) < 2 * found.segments[0].rate_sd_ppm),
        },
        "pyxdf": {
            "drift_left_ms": round(1e3 * float(np.ptp(np.polyval(np.polyfit(theirs[0], apart, 1), theirs[0]))), 1),
            **ms(apart - np.mean(apart)),
        },
    }


def radio_stamps(
    root: Path, capture: str, sensor: str, rate: float, taken_off: int = 1
) -> tuple[FloatArray, FloatArray]:
    """True times of samples at `rate`, and stamps: each sample comes with the next real packet, as late as that was.

    A line is taken off the jitter (`taken_off=1`): what of the delays looks like an offset or a rate, no clock can
    tell from one. The stricter `taken_off=0` takes off the mean only, so what looks like a rate counts as error.
    """
    device, arrival = packets_of(root, capture, sensor)
    delay = arrival - from_device(device, arrival)(device)
    order = np.argsort(device, kind="stable")
    device, delay = device[order], delay[order]
    truth = np.arange(int((device[-1] - device[0]) * rate)) / rate
    packet = np.searchsorted(device - device[0], truth)
    stamps = device[packet] - device[0] + delay[packet]
    return truth, stamps - np.polyval(np.polyfit(truth, stamps - truth, taken_off), truth)


def packets_of(root: Path, capture: str, sensor: str) -> tuple[FloatArray, FloatArray]:
    with np.load(root / "openmuse/ble_packets" / f"{capture}.decoded.npz") as packets:
        return packets[f"{sensor}_device"], packets[f"{sensor}_arrival"]


def losses(root: Path) -> dict[str, Any]:
    """A stretch cut out of a stream with real jitter; truth: the steady times the stamps were made from."""
    rows = []
    for capture, sensor, (rate, lost_s), where in itertools.product(
        CAPTURES, SENSORS, ((250.0, 1.5), (64.0, 5.0)), (0.25, 0.5, 0.75)
    ):
        truth, stamps = radio_stamps(root, capture, sensor, rate)
        cut, lost = int(where * len(truth)), round(lost_s * rate)
        kept = np.concatenate([np.arange(cut), np.arange(cut + lost, len(truth))])
        clock = from_samples(stamps[kept], rate)
        index = np.arange(len(kept))
        error = clock(index) - truth[kept]
        strict = radio_stamps(root, capture, sensor, rate, taken_off=0)[1][kept]
        counted = from_samples(stamps[kept], rate, counter=kept % 256, modulus=256)
        rows.append(
            {
                "capture": capture,
                "jitter_of": sensor,
                "rate_hz": rate,
                "lost_s": lost_s,
                "where": where,
                "jitter_sd_ms": round(1e3 * float(np.std(stamps - truth)), 1),
                "found": [s.lost for s in clock.segments[1:]],
                "true": lost,
                "placed_off_samples": [round(s.first_s * rate) - cut for s in clock.segments[1:]],
                "max_ms": ms(error)["max_ms"],
                "max_ms_strict": ms(from_samples(strict, rate)(index) - truth[kept])["max_ms"],
                "max_ms_with_counter": ms(counted(index) - truth[kept])["max_ms"],
                "covered": round(float(np.mean(np.abs(error) <= clock.uncertainty(index))), 3),
                "pyxdf_max_ms": ms(by_pyxdf(stamps[kept], rate) - truth[kept])["max_ms"],
            }
        )
    middle = [r for r in rows if r["where"] == 0.5]
    return {
        "rows": rows,
        "max_ms_middle": {s: max(r["max_ms"] for r in middle if r["jitter_of"] == s) for s in SENSORS},
        "max_ms_middle_strict": {s: max(r["max_ms_strict"] for r in middle if r["jitter_of"] == s) for s in SENSORS},
        "max_ms_anywhere": {s: max(r["max_ms"] for r in rows if r["jitter_of"] == s) for s in SENSORS},
        "max_ms_with_counter": {
            s: max(r["max_ms_with_counter"] for r in rows if r["jitter_of"] == s) for s in SENSORS
        },
        "within_2_ms": round(float(np.mean([r["max_ms"] <= 2 for r in rows])), 3),
        "all_found_in_place": all(r["placed_off_samples"] == [0] for r in rows),
        "covered": round(float(np.mean([r["covered"] for r in rows])), 3),
        "pyxdf_max_ms": max(r["pyxdf_max_ms"] for r in rows),
    }


def by_pyxdf(stamps: FloatArray, rate: float) -> FloatArray:
    """pyxdf's own removal of jitter, with its own defaults."""
    from pyxdf.pyxdf import StreamData, _jitter_removal

    stream = StreamData.__new__(StreamData)
    stream.time_stamps, stream.srate, stream.tdiff = stamps.copy(), rate, 1 / rate
    stream.segments, stream.clock_segments, stream.name = [], [], "made"
    return np.asarray(_jitter_removal({1: stream})[1].time_stamps)


def causal(root: Path) -> dict[str, Any]:
    """Device stamps mapped as packets come; truth: one robust line through the whole capture, future included.

    The first 10 s are not scored: until then the delays of single packets are in the mapping.
    """
    rows = []
    for capture, sensor in itertools.product(CAPTURES, SENSORS):
        device, arrival = packets_of(root, capture, sensor)
        clock = CausalClock()
        mapped, stated = np.empty(len(device)), np.empty(len(device))
        began = time.perf_counter()
        for i, (d, a) in enumerate(zip(device.tolist(), arrival.tolist(), strict=True)):
            mapped[i], stated[i] = clock.push(d, a), clock.uncertainty_s
        spent = time.perf_counter() - began
        offline: Clock = from_device(device, arrival)
        error = mapped - offline(device)
        settled = device > device[0] + 10
        both = np.hypot(2 * stated, offline.uncertainty(device))
        rows.append(
            {
                "capture": capture,
                "sensor": sensor,
                "inversions": int(np.sum(np.diff(device) < 0)),
                "sd_ms": round(1e3 * float(np.std(error[settled])), 2),
                "mean_ms": round(1e3 * float(np.mean(error[settled])), 2),
                "max_ms": ms(error[settled])["max_ms"],
                "max_ms_from_5_s": ms(error[device > device[0] + 5])["max_ms"],
                "max_ms_from_start": ms(error)["max_ms"],
                "covered_2_sd": round(float(np.mean(np.abs(error[settled]) <= both[settled])), 3),
                "us_a_packet": round(1e6 * spent / len(device), 1),
            }
        )
    return {"rows": rows, "sd_ms": max(r["sd_ms"] for r in rows), "max_ms": max(r["max_ms"] for r in rows)}


def same_as_pyxdf(root: Path) -> dict[str, Any]:
    """Stamps after clock offsets, and after jitter removal, against pyxdf's."""
    rows = []
    for name in CLEAN:
        raw = load(root / name, synchronize_clocks=False, dejitter_timestamps=False)
        offsets, both = load(root / name, dejitter_timestamps=False), load(root / name)
        for key, stream in raw.items():
            stamps, rate = stream["time_stamps"], float(stream["info"]["nominal_srate"][0])
            if not len(stamps) or not len(stream["clock_times"]):
                continue
            shared = from_offsets(stream["clock_times"], stream["clock_values"])(stamps)
            row = {"file": name, "stream": key.split("/")[0]}
            row["offsets_us"] = round(1e6 * float(np.abs(shared - offsets[key]["time_stamps"]).max()), 4)
            # A nominal rate that is ten times off is refused here and warned of there.
            if rate > 0 and abs(np.median(np.diff(stamps)) * rate - 1) < 1 and row["stream"] != "Muse_BATTERY":
                clock = from_samples(shared, rate)
                steady = clock(np.arange(len(shared)))
                row["steady_us"] = round(1e6 * float(np.abs(steady - both[key]["time_stamps"]).max()), 4)
                row["jitter_ms"] = round(1e3 * clock.segments[0].residual_sd_s, 3)
            rows.append(row)
    return {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("CLISONIX_DATA"), help="folder of recordings")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    if given.data is None:
        parser.error("give --data DIR or set CLISONIX_DATA")
    root = Path(given.data)
    found = {
        "benchmark": "fabric_clocks",
        "pyxdf": pyxdf.__version__,
        "tuned": TUNED,
        "flashes": flashes(root),
        "losses": losses(root),
        "causal": causal(root),
        "same_as_pyxdf": same_as_pyxdf(root),
    }
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
