"""Are the seconds and joules that a plan foretells those that the compressed model takes?

    python scripts/bench/plan_costs.py --json

Compresses a transformer to shares of its measured cost, and times dense and compressed model in turn. The aim is a
prediction within 10 %.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import nn

import clisonix
from clisonix.compress.costs import Costs, CpuTime, WallClock, alternating

AIM = 0.10


def main() -> None:
    """Measure, and print one line for each budget or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32], help="sequences in a batch")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.75])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(arguments.width, 6, 4 * arguments.width, batch_first=True)
    model = nn.TransformerEncoder(layer, arguments.layers, enable_nested_tensor=False).eval()
    rows = []
    for count in arguments.rows:
        x = torch.randn(count, 16, arguments.width)
        for objective, probe in (("seconds", WallClock()), ("joules", CpuTime())):
            for share in arguments.shares:
                rows.append(
                    {"rows": count, "objective": objective, "share": share} | _one(model, x, objective, probe, share)
                )
                if not arguments.json:
                    print(rows[-1])
    if arguments.json:
        print(json.dumps({"aim": AIM, "threads": arguments.threads, "rows": rows}, indent=1))


def _one(
    model: nn.Module, x: torch.Tensor, objective: str, probe: WallClock | CpuTime, share: float
) -> dict[str, float | str]:
    try:
        plan = clisonix.plan(model, budget=share, objective=objective, calibration=[x], costs=Costs(probe))
    except clisonix.ClisonixError as error:
        return {"refused": str(error)}
    small = clisonix.compress(model, plan, calibration=[x])
    with torch.no_grad():
        dense, compressed = alternating(probe, [lambda: model(x), lambda: small(x)], 15)
    assert plan.cost_before is not None
    assert plan.cost_after is not None
    predicted = plan.cost_after / plan.cost_before
    return {
        "predicted_share": predicted,
        "measured_share": compressed / dense,
        "error": predicted / (compressed / dense) - 1,
        "file_share": plan.file_bytes / plan.dense_file_bytes,
    }


if __name__ == "__main__":
    main()
