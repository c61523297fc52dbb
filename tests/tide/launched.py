"""A training script as a user would start it with torchrun: no group is made before joining."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from clisonix.tide import TideEngine

rank = int(os.environ["RANK"])
torch.manual_seed(rank)
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
reports = []
with TideEngine.join(model, {"inner_steps": 2}) as tide:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        reports.append(tide.step())
notes = {
    "size": tide.size,
    "rank": tide.rank,
    "weights": model.weight.tolist(),
    "digests": [report.digest for report in reports if report],
    "group_left": dist.is_initialized(),
}
(Path(sys.argv[1]) / f"launched{rank}.json").write_text(json.dumps(notes))
