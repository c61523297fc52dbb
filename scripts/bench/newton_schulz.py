"""Batched Newton-Schulz on the CPU against the function that `torch.optim.Muon` calls for every matrix.

Muon computes in bfloat16 whatever the device. `loop` is the same iteration in float32, one matrix at a time, so that
what batching gains can be told from what the type does.

    python scripts/bench/newton_schulz.py [--json]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from timing import alternately, times_faster
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from clisonix.kernels.newton_schulz import COEFFICIENTS, orthogonalise

# Many small matrices, and the weights of transformers of width 128 and 384.
SETS = {
    "100 of 64×64": [(64, 64)] * 100,
    "100 of 64×256": [(64, 256)] * 100,
    "width 128, 8 layers": [*[(128, 128)] * 32, *[(512, 128)] * 8, *[(128, 512)] * 8],
    "width 384, 2 layers": [*[(384, 384)] * 8, *[(1536, 384)] * 2, *[(384, 1536)] * 2],
}


def loop(matrices: list[Tensor]) -> list[Tensor]:
    a, b, c = COEFFICIENTS
    results = []
    for matrix in matrices:
        x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        results.append(x.mT if matrix.shape[0] > matrix.shape[1] else x)
    return results


def measure(shapes: list[tuple[int, int]], rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(*shape, generator=generator) for shape in shapes]
    spent = alternately(
        {
            "muon": lambda: [_zeropower_via_newtonschulz(x, COEFFICIENTS, 5, 1e-7) for x in matrices],
            "loop": lambda: loop(matrices),
            "ours": lambda: orthogonalise(matrices),
        },
        rounds,
    )
    return {theirs: times_faster(spent, "ours", theirs) for theirs in ("muon", "loop")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    found = {name: measure(shapes, arguments.rounds) for name, shapes in SETS.items()}
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "sets": found}))
        return
    for name, results in found.items():
        ours = 1e3 * results["muon"]["ours_s"]
        ratios = (f"{r['ratio']:.1f}× {theirs} ({r['low']:.1f} to {r['high']:.1f})" for theirs, r in results.items())
        print(f"{name:22} {ours:8.1f} ms, faster than", ", ".join(ratios))


if __name__ == "__main__":
    main()
