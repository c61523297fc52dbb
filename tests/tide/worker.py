"""Three nodes, each a process: every one runs each scenario and writes down what it saw.

Usage: python worker.py FOLDER. The tests start this once and compare the notes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.tide import TideEngine

SIZE = 3


class Node:
    """A small model with every kind of tensor, its own data and its own optimiser."""

    def __init__(self, rank: int, *, lr: float = 0.05, adam: bool = True, hidden: int = 5) -> None:
        torch.manual_seed(100 + rank)
        self.model = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))
        self.model.register_parameter("fine", nn.Parameter(torch.randn(7).bfloat16()))
        self.model.register_buffer("code", torch.full((3,), rank, dtype=torch.uint8))
        make = torch.optim.AdamW if adam else torch.optim.SGD
        self.optimizer = make(self.model.parameters(), lr=lr)
        self.data = torch.Generator().manual_seed(rank)

    def train_step(self) -> None:
        batch = torch.randn(8, 6, generator=self.data)
        self.optimizer.zero_grad()
        loss = self.model(batch).square().mean() + self.model.fine.float().square().sum()
        loss.backward()
        self.optimizer.step()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def flip_a_bit(tensor: Tensor) -> None:
    tensor.view(-1).view(torch.int32)[1] ^= 1


def error_of(act: Callable[[], Any]) -> str:
    try:
        act()
    except ClisonixError as error:
        return str(error)
    return ""


def run(rank: int, *, flips: dict[int, str] | None = None, **settings: float) -> dict[str, Any]:
    """Six steps, a sync after every second; `flips` damages a rank's state before the second sync."""
    node = Node(rank)
    reports, prints, between = [], [], ""
    with TideEngine.join(node.model, inner_steps=2, **settings) as tide:
        adopted = node.fingerprint()
        for step in range(6):
            if step == 3 and rank in (flips or {}):
                flip_a_bit(tide.state_dict()[flips[rank]])
            node.train_step()
            if step == 2:
                between = node.fingerprint()
            report = tide.step()
            if report:
                reports.append(report)
                prints.append(node.fingerprint())
    return {
        "adopted": adopted,
        "between": between,
        "prints": prints,
        "digests": [report.digest for report in reports],
        "healed": [report.healed for report in reports],
        "bytes_sent": [report.bytes_sent for report in reports],
        "syncs": [[report.step, report.sync] for report in reports],
        "code": node.model.code.tolist(),
        "group_kept": dist.is_initialized(),
    }


def averaging(rank: int) -> dict[str, Any]:
    node = Node(rank, adam=False)
    with TideEngine.join(node.model, inner_steps=1, outer_lr=1.0, outer_momentum=0.0) as tide:
        node.train_step()
        names = [name for name, p in node.model.named_parameters() if p.dtype == torch.float32]
        names.append("1.running_mean")
        before = {name: node.model.state_dict()[name].clone().tolist() for name in names}
        tide.step()
        after = {name: node.model.state_dict()[name].tolist() for name in names}
    return {"before": before, "after": after}


def pair(rank: int, both: dist.ProcessGroup) -> dict[str, Any]:
    if rank == 2:
        return {}
    node = Node(rank)
    tide = TideEngine(node.model, group=both, inner_steps=1)
    node.train_step()
    tide.step()
    if rank == 1:
        flip_a_bit(tide.state_dict()["outer/0.weight"])
    node.train_step()
    before = node.fingerprint()
    error = error_of(tide.step)
    return {"error": error, "weights_untouched": node.fingerprint() == before}


def three_ways(rank: int) -> dict[str, Any]:
    node = Node(rank)
    tide = TideEngine(node.model, inner_steps=1)
    tide.state_dict()["outer/0.bias"][0] += rank
    node.train_step()
    return {"error": error_of(tide.step)}


def strangers(rank: int) -> dict[str, Any]:
    other = Node(rank, hidden=4 if rank == 2 else 5)
    lazy = nn.LazyLinear(3) if rank == 1 else nn.Linear(2, 3)
    return {
        "model": error_of(lambda: TideEngine.join(other.model)),
        "settings": error_of(lambda: TideEngine.join(Node(rank).model, outer_lr=0.5 if rank == 1 else 0.7)),
        "lazy": error_of(lambda: TideEngine.join(lazy)),
    }


def not_finite(rank: int) -> dict[str, Any]:
    node = Node(rank)
    tide = TideEngine(node.model, inner_steps=1)
    before = {name: tensor.clone() for name, tensor in tide.state_dict().items()}
    with torch.no_grad():
        if rank == 2:
            node.model[2].weight[1, 1] = float("nan")
    error = error_of(tide.step)
    after = tide.state_dict()
    kept = all(torch.equal(before[name], after[name]) for name in before.keys() - {"steps", "since_sync"})
    if rank == 2:
        del node.model[2]
        node.model.add_module("2", nn.Linear(5, 3))
    else:
        node.train_step()
    return {"error": error, "state_kept": kept, "changed": error_of(tide.sync)}


def resume(rank: int, folder: Path) -> dict[str, Any]:
    """Stop in the middle of a round, save, and go on in new objects beside the uninterrupted run."""
    node = Node(rank)
    tide = TideEngine(node.model, inner_steps=3)
    for _ in range(4):
        node.train_step()
        tide.step()
    save_file(tide.state_dict(), folder / f"tide{rank}.safetensors")
    weights = {name: tensor.clone() for name, tensor in node.model.state_dict().items()}
    optimizer = node.optimizer.state_dict()
    optimizer["state"] = {k: {n: t.clone() for n, t in v.items()} for k, v in optimizer["state"].items()}
    position = node.data.get_state()
    straight = [(node.train_step(), tide.step())[1] for _ in range(5)]

    again = Node(rank)
    joined = TideEngine(again.model, inner_steps=3)
    again.model.load_state_dict(weights)
    again.optimizer.load_state_dict(optimizer)
    again.data.set_state(position)
    joined.load_state_dict(load_file(folder / f"tide{rank}.safetensors"))
    resumed = [(again.train_step(), joined.step())[1] for _ in range(5)]
    return {
        "straight": [report and [report.step, report.sync, report.digest] for report in straight],
        "resumed": [report and [report.step, report.sync, report.digest] for report in resumed],
        "same_weights": node.fingerprint() == again.fingerprint(),
    }


def one_dies(rank: int) -> dict[str, Any]:
    node = Node(rank)
    tide = TideEngine(node.model, inner_steps=1)
    node.train_step()
    if rank == 2:
        os._exit(0)
    before = node.fingerprint()
    error = error_of(tide.sync)
    return {
        "error": error,
        "untouched": node.fingerprint() == before and int(tide.state_dict()["syncs"]) == 0,
    }


def node(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    both = dist.new_group([0, 1])
    notes = {
        "plain": run(rank),
        "flipped_momentum": run(rank, flips={1: "momentum/0.weight"}),
        "flipped_first_rank": run(rank, flips={0: "outer/1.bias"}),
        "averaging_flip": run(rank, flips={2: "outer/2.weight"}, outer_lr=1.0, outer_momentum=0.0),
        "averaging_plain": run(rank, outer_lr=1.0, outer_momentum=0.0),
        "averaging": averaging(rank),
        "pair": pair(rank, both),
        "outsider": error_of(lambda: TideEngine(Node(rank).model, group=both)) if rank == 2 else "",
        "three_ways": three_ways(rank),
        "strangers": strangers(rank),
        "not_finite": not_finite(rank),
        "resume": resume(rank, folder),
    }
    notes_file = folder / f"notes{rank}.json"
    notes_file.write_text(json.dumps(notes))
    notes_file.write_text(json.dumps({**notes, "one_dies": one_dies(rank)}))
    # The group has lost a member, so an orderly goodbye is no longer possible.
    os._exit(0)


if __name__ == "__main__":
    # Forked before torch has started a thread, so that torch is imported once and not three times.
    torch.multiprocessing.start_processes(node, (Path(sys.argv[1]),), SIZE, start_method="fork")
