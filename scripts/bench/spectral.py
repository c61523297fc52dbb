"""One step of `Spectral` on the CPU against torch's optimisers on the same parameters and gradients, and its state.

`muon` is `torch.optim.Muon` for the matrices and `torch.optim.AdamW` for the vectors, as they are: Muon iterates in
bfloat16, which most CPUs emulate. `muon_f32` is the same Muon given float32 to iterate in, so that what batching
gains can be told from what the type does. `adamw` is `torch.optim.AdamW(foreach=True)` for everything.

    python scripts/bench/spectral.py [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.optim._muon as torch_muon
from timing import alternately, times_faster
from torch import Tensor, nn

from clisonix.train import Spectral

# 100 matrices and as many vectors. The first holds the sizes that models for streams have, the second larger ones.
SETS = {
    "100 mixed, sides 32 to 256": [
        *[(64, 64)] * 30, *[(192, 64)] * 10, *[(64, 192)] * 10, *[(96, 96)] * 16, *[(288, 96)] * 4, *[(96, 288)] * 4,
        *[(32, 64)] * 16, *[(256, 128)] * 5, *[(128, 256)] * 5,
    ],
    "100 mixed, sides 128 to 512": [
        *[(128, 128)] * 60, *[(512, 128)] * 15, *[(128, 512)] * 15, *[(256, 256)] * 10,
    ],
}  # fmt: skip


class Wide(Tensor):
    """A tensor that stays float32 where torch's function asks for bfloat16."""

    def bfloat16(self) -> Wide:  # type: ignore[override]
        return self.clone()


class MuonFloat32(torch.optim.Muon):
    """`torch.optim.Muon` whose own function iterates in float32."""

    def step(self, closure: None = None) -> None:
        theirs = torch_muon._zeropower_via_newtonschulz

        def widened(grad: Tensor, *rest: object) -> Tensor:
            return theirs(grad.as_subclass(Wide), *rest).as_subclass(Tensor)

        torch_muon._zeropower_via_newtonschulz = widened
        try:
            super().step()
        finally:
            torch_muon._zeropower_via_newtonschulz = theirs


def parameters(shapes: list[tuple[int, int]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(*shape, generator=generator) / 8) for shape in shapes]
    found += [nn.Parameter(torch.zeros(rows)) for rows, _ in shapes]
    for p in found:
        p.grad = torch.randn(p.shape, generator=generator)
    return found


def torch_pair(kind: type[torch.optim.Muon], shapes: list[tuple[int, int]]) -> list[torch.optim.Optimizer]:
    mine = parameters(shapes)
    matrices, vectors = [p for p in mine if p.ndim == 2], [p for p in mine if p.ndim < 2]
    return [
        kind(matrices, lr=1e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=1e-3),
    ]


def stepping(optimisers: list[torch.optim.Optimizer]) -> Callable[[], None]:
    def work() -> None:
        for optimiser in optimisers:
            optimiser.step()

    return work


def measure(shapes: list[tuple[int, int]], rounds: int) -> dict[str, Any]:
    ours: dict[str, list[torch.optim.Optimizer]] = {
        "ours": [Spectral(parameters(shapes))],
        "ours, unchecked": [Spectral(parameters(shapes), nonfinite="ignore")],
        "ours, 8-bit state": [Spectral(parameters(shapes), state_bits=8)],
    }
    theirs = {
        "muon": torch_pair(torch.optim.Muon, shapes),
        "muon_f32": torch_pair(MuonFloat32, shapes),
        "adamw": [torch.optim.AdamW(parameters(shapes), foreach=True)],
    }
    contenders = {**ours, **theirs}
    spent = alternately({name: stepping(optimisers) for name, optimisers in contenders.items()}, rounds)
    return {
        "times": {
            mine: {other: times_faster(spent, mine, other) for other in theirs}
            for mine in ours
        },
        "state_bytes": {name: sum(map(state_bytes, optimisers)) for name, optimisers in contenders.items()},
        "parameter_bytes": sum(rows * columns + rows for rows, columns in shapes) * 4,
    }  # fmt: skip


def state_bytes(optimiser: torch.optim.Optimizer) -> int:
    return sum(x.nbytes for state in optimiser.state.values() for x in state.values() if isinstance(x, Tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    found = {name: measure(shapes, arguments.rounds) for name, shapes in SETS.items()}
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "sets": found}))
        return
    for name, results in found.items():
        print(name)
        for mine, ratios in results["times"].items():
            faster = (f"{r['ratio']:.2f}× {other} ({r['low']:.2f} to {r['high']:.2f})" for other, r in ratios.items())
            print(f"  {mine:18} {1e3 * ratios['muon']['ours_s']:7.1f} ms, faster than", ", ".join(faster))
        bytes_a_parameter = {k: v / results["parameter_bytes"] for k, v in results["state_bytes"].items()}
        print("  state per byte of parameters:", ", ".join(f"{k} {v:.2f}" for k, v in bytes_a_parameter.items()))


if __name__ == "__main__":
    main()
