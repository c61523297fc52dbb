"""One of two processes that train one compressed model, replicated and sharded; writes down where each ended.

python ecosystem_nodes.py FOLDER RANK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from clisonix.compress import Form, compress, plan

SIZE = 2


def compressed() -> nn.Module:
    """A low rank, whose factors learn, and integers, whose scales do; a convolution and a kept layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 32, 5), nn.Flatten(), nn.Linear(32 * 12, 32), nn.Tanh(), nn.Linear(32, 40), nn.Linear(40, 2)
    ).double()
    made = plan(model, budget=0.95)
    for name, form in {
        "0.weight": Form("integer", bits=4, group=20),
        "2.weight": Form("lowrank", rank=4),
        "4.weight": Form("integer", bits=8, group=32),
        "5.weight": Form("keep"),
    }.items():
        made = made.with_form(name, form)
    return compress(model, made)


def train(model: nn.Module, rank: int | None) -> list[Tensor]:
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)
    for step in range(4):
        x = torch.randn(8, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        part = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        optimiser.zero_grad()
        (model(x[part]) - x[part].mean(2)[:, :2].sin()).square().mean().backward()
        optimiser.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    reference = train(compressed(), None)
    sharded = compressed()
    mesh = init_device_mesh("cpu", (SIZE,))
    for layer in (sharded[2], sharded[4], sharded):
        fully_shard(layer, mesh=mesh)
    notes = {
        "moved": apart(reference, [p.detach() for p in compressed().parameters()]),
        "replicated": apart(train(DistributedDataParallel(compressed()), rank), reference),
        "sharded": apart(train(sharded, rank), reference),
        "spread": sum(isinstance(p, DTensor) for p in sharded.parameters()),
        "parameters": len(reference),
    }
    (folder / f"notes{rank}.json").write_text(json.dumps(notes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
