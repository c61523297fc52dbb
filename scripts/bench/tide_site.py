"""One site of `scripts/tide_local.sh`: a small real training, its syncs metered.

    python scripts/bench/tide_site.py start FILE [--data FOLDER]                     the state that all begin with
    python scripts/bench/tide_site.py train CONFIG NUMBER OF NOTES [--data FOLDER]   site NUMBER of OF

With the folder of recordings it classifies the shoulder exercises of `watch`, each site with its own people, and the
last person of each held out; without it, made-up rhythms. NOTES gets a line of JSON after each sync.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clisonix import Meter
from clisonix.tide import SiteEngine, SiteSettings, TideEngine, write_start

BATCH, LENGTH, HOP = 16, 200, 100


def watch(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of 4 s `(windows, channels, time)`, their classes and people."""
    with np.load(folder / "watch_imu" / "watch_imu.npz") as file:
        signal, lengths, labels, people = (file[name] for name in ("X", "lengths", "y", "subject"))
    x, y, who, begin = [], [], [], 0
    for length, label, person in zip(lengths.tolist(), labels.tolist(), people.tolist(), strict=True):
        for at in range(begin, begin + length - LENGTH + 1, HOP):
            x.append(signal[at : at + LENGTH].T)
            y.append(label)
            who.append(person)
        begin += length
    stacked = torch.from_numpy(np.stack(x))
    return (
        (stacked - stacked.mean((0, 2), keepdim=True)) / stacked.std((0, 2), keepdim=True),
        torch.tensor(y),
        torch.tensor(who),
    )


def rhythms() -> tuple[Tensor, Tensor, Tensor]:
    """As `watch`, but made up: a class is a rhythm, a person a gain of each channel."""
    draw = torch.Generator().manual_seed(0)
    number, people = 2400, 10
    y = torch.randint(0, 7, (number,), generator=draw)
    who = torch.arange(number) * people // number
    gains = 1 + 0.3 * torch.randn(people, 6, 1, generator=draw)
    rates = 1 + 8 * torch.rand(7, 6, 1, generator=draw)
    phases = 6.28 * torch.rand(number, 1, 1, generator=draw)
    waves = torch.sin(6.28 * rates[y] * torch.linspace(0, 4, LENGTH) + phases) * gains[who]
    return waves + torch.randn(waves.shape, generator=draw), y, who


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(6, 48, 9, 2), nn.GELU(), nn.Conv1d(48, 96, 7, 2), nn.GELU(), nn.Conv1d(96, 96, 5, 2), nn.GELU(),
        nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(384, 64), nn.GELU(), nn.Linear(64, 7),
    )  # fmt: skip


def load(folder: Path | None) -> tuple[str, tuple[Tensor, Tensor, Tensor]]:
    real = folder is not None and (folder / "watch_imu" / "watch_imu.npz").is_file()
    return ("watch", watch(folder)) if real and folder is not None else ("made up", rhythms())


def train(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    name, (x, y, who) = load(given.data)
    people = sorted(set(who.tolist()))
    held = torch.isin(who, torch.tensor(people[-2:]))
    mine = torch.isin(who, torch.tensor(people[:-2][given.number :: given.of])).nonzero().view(-1)
    mine = mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(given.number))]
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def batches_from(window: int) -> Iterator[Tensor]:
        """The stream of this site without an end; a window is one batch."""
        while True:
            yield mine[(torch.arange(BATCH) + window * BATCH) % len(mine)]
            window += 1

    def note(**facts: Any) -> None:  # noqa: ANN401 - anything JSON can say
        with given.notes.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    begun_s = time.monotonic()
    with Meter() as meter, meter.window("run"):
        with TideEngine.join(model, SiteSettings.read(given.config)) as tide:
            assert isinstance(tide, SiteEngine)
            note(event="joined", round=tide.round, window=tide.window, seconds=time.monotonic() - begun_s)
            for batch in tide.follow(batches_from):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
                window = f"sync/{tide.round}"
                with meter.window(window):
                    report = tide.step()
                if report:
                    energy = meter.energy(window)
                    note(
                        event="sync", round=report.sync, digest=report.digest, used=report.used, window=report.window,
                        bytes_sent=report.bytes_sent, bytes_received=report.bytes_received, seconds=report.seconds,
                        waited_s=report.waited_s, joules=energy.joules, low=energy.low, high=energy.high,
                        source=energy.source,
                    )  # fmt: skip
            digest = tide.digest()
        with torch.no_grad():
            right = (model.eval()(x[held]).argmax(1) == y[held]).float().mean()
    whole = meter.energy("run")
    note(event="end", digest=digest, accuracy=float(right), data=name, run_joules=whole.joules, source=whole.source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start")
    start.add_argument("path", type=Path)
    one = commands.add_parser("train")
    one.add_argument("config", type=Path)
    one.add_argument("number", type=int)
    one.add_argument("of", type=int)
    one.add_argument("notes", type=Path)
    for each in (start, one):
        each.add_argument("--data", type=Path)
    given = parser.parse_args()
    if given.command == "start":
        write_start(network(), given.path)
    else:
        train(given)


if __name__ == "__main__":
    main()
