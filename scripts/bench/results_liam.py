"""The part of the results page about the algebra, from docs/results/liam.json."""

from __future__ import annotations

from typing import Any

PRODUCTS = {
    "binary": "binary (1 bit)",
    "ternary": "ternary (2 bits)",
    "integer4": "integer, 4 bits, a scale for 64",
    "chain": "double binary chain, rank n/2",
}


def algebra(found: dict[str, Any]) -> list[str]:
    """Products, decompositions and memory, each beside what people use today."""
    lines = [
        "",
        "## The algebra",
        "",
        "Contenders take turns in one process; ratios are medians over rounds, with 95 % bootstrap intervals. CPU only.",
        "",
        "Products with an 8192² weight, times faster than torch's dense product in float32 or bfloat16, whichever is faster,",
        "by rows of input. The target was 6 for one row of binary and chain, 4 for ternary, and 0.95 everywhere:",
        "",
    ]
    by_form: dict[str, dict[int, dict[str, Any]]] = {form: {1: found[form][0]} for form in PRODUCTS if form in found}
    for row in found.get("batches", []):
        by_form[row["form"]][row["batch"]] = row
    batches = sorted({batch for rows in by_form.values() for batch in rows})
    lines += ["| form | " + " | ".join(map(str, batches)) + " |", "|---" * (1 + len(batches)) + "|"]
    for form, rows in by_form.items():
        cells = [f"{rows[batch]['ratio']:.1f}" if batch in rows else "" for batch in batches]
        lines.append(f"| {PRODUCTS[form]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "One row of input, with interval and milliseconds: "
        + "; ".join(
            f"{form} {ratio(rows[1])}, {1e3 * rows[1]['ours_s']:.2f} against {1e3 * rows[1]['theirs_s']:.2f} ms "
            f"({rows[1]['against']}), relative error {rows[1]['relative_error']:.0e} (torch float32: "
            f"{rows[1]['relative_error_of_torch_float32']:.0e})"
            for form, rows in by_form.items()
        )
        + ".",
    ]
    if "svd" in found:
        lines += [
            "",
            "The 64 leading singular triplets of a 2048 × 1024 matrix, at an error within 1 % of the best (targets: 10 and 1).",
            "The peers get, on that very matrix, the fewest power iterations that reach this error, or the one that ours",
            "has; nobody knows these beforehand. The number behind a peer's name is how many those are.",
            "",
            "| spectrum | error / best | against `torch.linalg.svd` | the best peer within 1 % | the best peer at our error |",
            "|---|---|---|---|---|",
        ]
        for name, row in found["svd"][0]["spectra"].items():
            peers = (f"{ratio(row[key])}, {row[key]['against']}" for key in ("peer", "peer_at_equal_error"))
            lines.append(f"| {name} | {row['error_over_best']:.4f} | {ratio(row['full'])} | {' | '.join(peers)} |")
    if "streaming" in found:
        row = found["streaming"][0]
        lines += [
            "",
            "A 4 GiB memory map on disk, k=32, peak memory above the interpreter's (target 512 MB): "
            + ", ".join(
                f"{name} {' × '.join(map(str, row[name]['shape']))}: {row[name]['peak_bytes'] / 1e6:.0f} MB"
                for name in ("square", "tall")
            )
            + ".",
        ]
    if "transform" in found:
        row = found["transform"][0]
        beside = ", ".join(f"{name} {times:.1f}×" for name, times in row["ratios"].items())
        lines += [
            "",
            f"`transform_matrix`, 100 000 × 20 000 with 0.1 % entries times 64 columns: faster than {beside}.",
        ]
    if "overhead" in found:
        row = found["overhead"][0]
        lines += ["", f"`LowRank(512, r=32) @ x(16)` takes {ratio(row)} of its two plain products (target 1.3)."]
    if "memory" in found:
        worst = max(found["memory"], key=lambda row: row["ratio"])
        lines += [
            "",
            f"Peak memory of {len(found['memory'])} products over packed weight, input and output: at most "
            f"{worst['ratio']:.2f} ({worst['form']}, {worst['batch']} rows; target 1.25).",
        ]
    return lines


def ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f}× ({row['low']:.2f}–{row['high']:.2f})"
