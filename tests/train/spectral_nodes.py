"""One of two processes that train one small model by `Spectral` in several ways; writes down where each ended.

python spectral_nodes.py FOLDER RANK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from clisonix.errors import ClisonixError
from clisonix.liam import LowRank
from clisonix.train import Spectral

SIZE = 2
STEPS = 6


class Small(nn.Module):
    """Matrices of odd and of equal sizes, a kernel, a product, vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel = nn.Conv1d(3, 5, 3, dtype=torch.float64)
        self.inner = nn.Linear(5, 7, dtype=torch.float64)
        self.thin = LowRank(*(torch.randn(s, dtype=torch.float64) / 2 for s in ((7, 3), (3, 7))))
        self.outer = nn.Linear(7, 5, dtype=torch.float64)
        self.head = nn.Linear(5, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.kernel(x).mean(dim=2)
        return self.head(self.outer(self.thin(self.inner(x).tanh())).tanh())


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(8, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return x, x.mean(dim=2)[:, :2].sin()


def train(model: nn.Module, optimiser: Spectral, rank: int | None) -> None:
    for step in range(STEPS):
        x, y = batch(step)
        part = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        optimiser.zero_grad()
        (model(x[part]) - y[part]).square().mean().backward()
        optimiser.step()


def entries(model: nn.Module) -> list[Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def replicated(rank: int, reference: list[Tensor], **settings: Any) -> float:
    model = Small()
    train(DistributedDataParallel(model), Spectral(model, lr=0.02, **settings), rank)
    return apart(entries(model), reference)


def sharded(rank: int, reference: list[Tensor]) -> tuple[float, bool]:
    model = Small()
    fully_shard(model, mesh=init_device_mesh("cpu", (SIZE,)))
    optimiser = Spectral(model, lr=0.02)
    train(model, optimiser, rank)
    # The state is spread like the parameters.
    spread = all(
        isinstance(s["momentum_buffer"], DTensor) for s in optimiser.state.values() if "momentum_buffer" in s
    )
    return apart(entries(model), reference), spread


def by_columns(reference: list[Tensor]) -> float:
    """A layout that is not by rows, given the gradients that a single process has."""
    mesh = init_device_mesh("cpu", (SIZE,))
    whole, model = Small(), Small()
    one = Spectral(whole, lr=0.02)
    for name, p in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        placement = Shard(1) if p.ndim == 2 else Replicate()
        owner._parameters[name.rpartition(".")[2]] = nn.Parameter(distribute_tensor(p.detach(), mesh, [placement]))
    other = Spectral(model, lr=0.02)
    for step in range(STEPS):
        x, y = batch(step)
        one.zero_grad()
        (whole(x) - y).square().mean().backward()
        for p, q in zip(whole.parameters(), model.parameters(), strict=True):
            assert isinstance(q, DTensor)
            q.grad = distribute_tensor(p.grad, mesh, q.placements)  # type: ignore[arg-type]
        one.step()
        other.step()
    assert apart(entries(whole), reference) == 0
    return apart(entries(model), reference)


def not_finite(rank: int) -> str:
    """A NaN that only the second process sees."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (SIZE,)))
    optimiser = Spectral(model)
    model(torch.ones(2, 4)).sum().backward()
    if rank == 1:
        model[0].weight.grad.to_local()[0, 0] = float("nan")
    try:
        optimiser.step()
    except ClisonixError as error:
        return str(error)
    return "nothing was raised"


def packed() -> str:
    model = nn.Sequential(nn.Linear(4, 4))
    fully_shard(model, mesh=init_device_mesh("cpu", (SIZE,)))
    try:
        Spectral(model, state_bits=8)
    except ClisonixError as error:
        return str(error)
    return "nothing was raised"


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    alone = Small()
    train(alone, Spectral(alone, lr=0.02), None)
    reference = entries(alone)
    rows, spread = sharded(rank, reference)
    notes = {
        "replicated": replicated(rank, reference),
        "dealt": replicated(rank, reference, ranks=dist.group.WORLD),
        "by rows": rows,
        "state is spread": spread,
        "by columns": by_columns(reference),
        "not finite": not_finite(rank),
        "packed": packed(),
    }
    (folder / f"notes{rank}.json").write_text(json.dumps(notes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
