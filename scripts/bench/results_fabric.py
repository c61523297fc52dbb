"""The part of the results page about the fabric, from docs/results/fabric.json."""

from __future__ import annotations

from typing import Any


def woven(found: dict[str, Any]) -> list[str]:
    """Clocks against known truths, speed beside the copies that cannot be avoided, memory, live streams, damage."""
    lines = ["", "## The fabric"]
    for part, tell in (
        ("clocks", clocks), ("throughput", throughput), ("memory", memory), ("live", live), ("fuzz", fuzz),
        ("kills", kills),
    ):  # fmt: skip
        if part in found:
            lines += ["", *tell(found[part])]
    return lines


def clocks(c: dict[str, Any]) -> list[str]:
    f, lost, causal = c["flashes"], c["losses"], c["causal"]
    four, many = f["anchors_first_two_last_two"], f["anchors_any_two_early_two_late"]
    rows = []
    for name, row in lost["anywhere"].items():
        rows.append(
            f"| {name} | {row['median_ms']:.2f} | {row['p90_ms']:.2f} | {row['max_ms']:.2f} "
            f"| {100 * row['within_2_ms']:.0f} % | {100 * row['number_exact']:.0f} % | {100 * row['covered']:.0f} % |"
        )
    tuned, held = lost["within_2_ms_anywhere"].items()
    return [
        f"Two sensors that saw {f['edges']} flashes, clocks 3.3 ‰ apart. From 4 of the edges (the first two and the last "
        f"two), the other {f['edges'] - 4} are off by {four['median_ms']:.2f} ms in the median, {four['max_ms']:.2f} ms "
        f"at most (pyxdf: {f['pyxdf']['median_ms']:.0f} and {f['pyxdf']['max_ms']:.0f} ms). The rate is "
        f"{four['rate_error_ppm']:+.1f} ppm from that of all edges, which is itself known to "
        f"±{f['rate_se_ppm_all_edges_matched']:.0f} ppm (standard error), and "
        f"{four['rate_error_to_crossings_ppm']:+.1f} ppm from the rate of plain crossings, "
        f"±{f['rate_se_ppm_all_edges']:.0f} ppm; target 20. Of all {many['choices']} choices of two early and two late "
        f"edges {100 * many['rate_within_20_ppm']:.0f} % come within 20 ppm.",
        "",
        "Samples cut out of a stream with the jitter of real Bluetooth packets: the largest error of any remaining sample. "
        f"1.5 s at 250 Hz and 5 s at 64 Hz in the middle: at most {max(lost['max_ms'].values()):.2f} ms (target 2; pyxdf "
        f"{lost['pyxdf_max_ms']:.0f} ms). 0.5 to 8 s at random places, of which {100 * tuned[1]:.1f} % stay within 2 ms "
        f"on the capture that the estimator was chosen on and {100 * held[1]:.1f} % on the other, {held[0]}:",
        "",
        "| capture, sensor whose jitter it is, rate | median ms | 90 % ms | max ms | within 2 ms | number exact | covered |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "The sensors send at 256 Hz (EEG), 64 Hz (OPTICS) and 52 Hz (ACCGYRO); the jitter of slow ones at 250 Hz is harder "
        "than what they have themselves. With a counter of samples no error exceeds "
        f"{max(r['max_ms_with_counter'] for r in lost['anywhere'].values()):.2f} ms.",
        "",
        f"A causal clock on the same packets, from 10 s on: standard deviation at most {causal['sd_ms']:.2f} ms, at most "
        f"{causal['max_ms']:.1f} ms off (targets 2 and 6); in the first 10 s two of its stated standard errors hold "
        f"{100 * min(r['covered_2_sd_first_10_s'] for r in causal['rows']):.1f} % of packets or more.",
    ]


def throughput(t: dict[str, Any]) -> list[str]:
    lines = ["Contenders take turns; ratios are medians over rounds with 95 % bootstrap intervals."]
    for part in ("one modality, 64 KiB", "five modalities, 2 s"):
        lines += ["", f"| {part} | ratio |", "|---|---|"]
        for name, r in t[part]["ratios"].items():
            lines.append(f"| {name} | {r['ratio']:.2f} ({r['low']:.2f}–{r['high']:.2f}) |")
    return lines


def memory(m: dict[str, Any]) -> list[str]:
    return [
        f"{m['bytes'] / 1e9:.0f} GB woven with a budget of {m['budget_bytes'] / 2**20:.0f} MiB, a stream that never sends and "
        f"one that runs ahead: resident memory grew by {m['grown_bytes'] / 2**20:.0f} MiB (target: budget + 64 MiB)."
    ]


def live(v: dict[str, Any]) -> list[str]:
    return [
        f"Live streams over loopback for {v['seconds']:.0f} s, from the moment a sample is due to the moment it is here, 99th "
        f"percentile: EEG {v['eeg_ready_ms']['p99']:.1f} ms, audio {v['audio_ready_ms']['p99']:.1f} ms, EEG after its "
        f"producer was killed and started again {v['eeg_after_restart_ready_ms']['p99']:.1f} ms; lost: "
        f"{', '.join(f'{name} {n}' for name, n in v['lost'].items())}."
    ]


def fuzz(z: dict[str, Any]) -> list[str]:
    t = z["total"]
    return [
        f"{t['files']} damaged files of {len(z['formats'])} formats: {t['failures']} that ended in anything but the library's "
        f"own error, the slowest {t['slowest_s']:.2f} s, at most {t['most_mb']:.0f} MB for one file and "
        f"{t['resident_peak_mb']:.0f} MB resident."
    ]


def kills(k: dict[str, Any]) -> list[str]:
    told = ", ".join(f"{name} {value}" for name, value in k.items() if isinstance(value, int | float | str))
    return [f"Killed and resumed: {told}."]
