"""Compressed DiLoCo against float32 DiLoCo and DDP on small classification tasks with unlike sites."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clisonix.tide.codecs import CodecSettings
from clisonix.tide.coordinator import Coordinator
from clisonix.tide.log import Log
from clisonix.tide.replica import Replica, Rules, Schema
from clisonix.tide.site import Site
from clisonix.tide.wire import Wire

SITES, INNER, BATCH = 8, 50, 32
ARMS: dict[str, dict[str, Any]] = {
    "float32": {"form": "dense"},
    "sparse 3% 2 bits": {"form": "sparse", "density": 0.03, "bits": 2},
    "sparse 1% 2 bits": {"form": "sparse", "density": 0.01, "bits": 2},
    "low rank 4, 4 bits": {"form": "lowrank", "rank": 4, "bits": 4},
    "binary": {"form": "binary"},
}
Data = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def waves(seed: int, classes: int, channels: int, noise: float) -> Data:
    """Made-up recordings: each class is a set of rhythms; each site hears them through its own filter and favours
    some classes, as hospitals do."""
    draw = torch.Generator().manual_seed(seed)
    time = torch.linspace(0, 1, 64)
    rhythms = 2 + 20 * torch.rand(classes, channels, 3, generator=draw)
    phases = 6.28 * torch.rand(classes, channels, 3, generator=draw)
    gains = 1 + 0.3 * torch.randn(SITES + 1, channels, 1, generator=draw)
    favour = torch.rand(SITES, classes, generator=draw).pow(2) + 0.05

    def batch(site: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if site < SITES:
            labels = torch.multinomial(favour[site], BATCH, replacement=True, generator=generator)
        else:
            labels = torch.randint(0, classes, (2048,), generator=generator)
        shift = 0.6 * torch.randn(len(labels), 1, 1, 1, generator=generator)
        angle = 6.28 * rhythms[labels][..., None] * time + phases[labels][..., None] + shift
        clean = torch.sin(angle).sum(2) * (gains[site] if site < SITES else 1.0)
        return clean + noise * torch.randn(clean.shape, generator=generator), labels

    return batch


def network(channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(channels, 48, 7, 2), nn.GELU(), nn.Conv1d(48, 64, 5, 2), nn.GELU(), nn.Flatten(),
        nn.Linear(64 * 13, 128), nn.GELU(), nn.Linear(128, classes),
    )  # fmt: skip


TASKS = {"calm": (4, 6, 1.5), "many": (12, 8, 2.0), "noisy": (6, 4, 2.5)}


def train(task: str, seed: int, form: dict[str, Any], rounds: int) -> dict[str, float]:
    """One training by the production state machines, all messages sealed and opened."""
    import io

    torch.manual_seed(seed)
    classes, channels, noise = TASKS[task]
    data = waves(1000 + seed, classes, channels, noise)
    model = network(channels, classes)
    parameters = list(model.parameters())
    schema = Schema({name: p.shape for name, p in model.named_parameters()})
    start = torch.cat([p.detach().view(-1) for p in parameters]).numpy().copy()
    codec = CodecSettings.of(form)
    rules = Rules(up=codec, down=codec, min_sites=SITES)
    hub = Coordinator("hub", Replica(schema, rules, start), Log(io.BytesIO()))
    hub.start(0.0)
    sites = {f"s{i}": Site(f"s{i}", Replica(schema, rules)) for i in range(SITES)}
    wire, sent = Wire(), {"up": 0, "down": 0}

    def deliver(messages: list[Any]) -> None:
        while messages:
            down: list[tuple[str, bytes]] = []
            for message in messages:
                data_up = wire.seal(message, "hub")
                sent["up"] += len(data_up)
                down += [(to, wire.seal(m, to)) for to, m in hub.handle(wire.open(data_up), 0.0)]
            sent["down"] += sum(len(each) for _, each in down)
            messages = [m for to, each in down for m in sites[to].handle(wire.open(each), 0.0)]

    deliver([m for site in sites.values() for m in site.start(0.0)])
    joining = dict(sent)
    draws = [torch.Generator().manual_seed(100 * seed + i) for i in range(SITES)]
    optimizers = [torch.optim.AdamW(parameters, lr=1e-3) for _ in range(SITES)]
    for round_ in range(rounds):
        results = []
        for index, site in enumerate(sites.values()):
            work = site.work()
            assert work is not None
            assert work.round == round_
            load(parameters, work.parameters)
            for _ in range(INNER):
                x, y = data(index, draws[index])
                optimizers[index].zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizers[index].step()
            arrived = torch.cat([p.detach().view(-1) for p in parameters]).numpy()
            results += site.finish(work, arrived, work.start + INNER, 1.0, 0.0)
        deliver(results)
    assert len({site.replica.root() for site in sites.values()} | {hub.replica.root()}) == 1
    load(parameters, hub.replica.outer)
    x, y = data(SITES, torch.Generator().manual_seed(7))
    with torch.no_grad():
        logits = model(x)
    ddp = 4.0 * schema.size * INNER * rounds * SITES
    return {
        "loss": float(nn.functional.cross_entropy(logits, y)),
        "accuracy": float((logits.argmax(1) == y).float().mean()),
        "bytes_up": sent["up"] - joining["up"],
        "bytes_down": sent["down"] - joining["down"],
        "times_fewer_than_ddp_up": ddp / (sent["up"] - joining["up"]),
        "times_fewer_than_ddp_down": ddp / (sent["down"] - joining["down"]),
    }


def load(parameters: list[nn.Parameter], flat: np.ndarray) -> None:
    at = 0
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.from_numpy(flat[at : at + parameter.numel()]).view(parameter.shape))
            at += parameter.numel()


def codecs(full: bool) -> dict[str, Any]:
    """Every arm on every task and seed; per arm the ratio of its loss to that of float32 DiLoCo."""
    tasks, seeds, rounds = (list(TASKS), range(5), 40) if full else (["calm"], range(1), 8)
    runs = [
        {"task": task, "seed": seed, "arm": arm, **train(task, seed, form, rounds)}
        for task in tasks
        for seed in seeds
        for arm, form in ARMS.items()
    ]
    plain = {(run["task"], run["seed"]): run["loss"] for run in runs if run["arm"] == "float32"}
    summary = {}
    for arm in ARMS:
        mine = [run for run in runs if run["arm"] == arm]
        ratios = [math.log(run["loss"] / plain[run["task"], run["seed"]]) for run in mine]
        middle = sum(ratios) / len(ratios)
        spread = math.sqrt(sum((r - middle) ** 2 for r in ratios) / max(len(ratios) - 1, 1) / len(ratios))
        summary[arm] = {
            "loss_ratio": math.exp(middle),
            "log_ratio_standard_error": spread if len(ratios) > 1 else None,
            "times_fewer_up": min(run["times_fewer_than_ddp_up"] for run in mine),
            "times_fewer_down": min(run["times_fewer_than_ddp_down"] for run in mine),
        }
    return {"sites": SITES, "inner_steps": INNER, "rounds": rounds, "summary": summary, "runs": runs}
