"""What one verified state over many nodes costs, and what it withstands.

    python scripts/bench/tide.py --json [--parts digest flips codecs snapshot simulator schedules faults] [--full]

digest: hashing against the other work of a sync. flips: bits flipped in replicas and in snapshot shards, and false
alarms. codecs: loss and bytes of compressed DiLoCo against float32 DiLoCo and against DDP, which sends a gradient
every step. snapshot: how long a training waits. simulator: a thousand nodes. schedules: small random fault schedules.
faults: a coordinator that is killed again and again, as real processes.
Without --full the parts are small enough for a few minutes; --out adds the results to a file, such as
docs/results/tide.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import raw_record
import torch
from tide_codecs import codecs
from tide_faults import faults

from clisonix.errors import ClisonixError
from clisonix.tide import snapshot
from clisonix.tide.codecs import CodecSettings, Feedback
from clisonix.tide.digest import vote
from clisonix.tide.outer import nesterov_
from clisonix.tide.replica import Replica, Rules, Schema
from clisonix.tide.roll import Roll
from clisonix.tide.simulator import HUB, Fault, Scenario, Simulator


def seconds(work: Any) -> float:  # noqa: ANN401 - any callable
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def digest(full: bool) -> dict[str, Any]:
    """A site's sync, without waiting for the network: encode, decode, outer step, and the digest beside them."""
    size = 25_000_000 if full else 4_000_000
    rules = Rules()
    replica = Replica(Schema({f"w{i}": (size // 4,) for i in range(4)}), rules, np.ones(size, np.float32))
    feedback = Feedback(replica.schema.codec(rules.up))
    moved = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    down = replica.schema.codec(rules.down)
    rows: dict[str, list[float]] = {"hash": [], "encode": [], "decode": [], "outer": []}
    for _ in range(5 if full else 3):
        rows["hash"].append(seconds(replica.root))
        data: list[bytes] = []
        rows["encode"].append(seconds(lambda: data.append(feedback.encode(moved)[0])))  # noqa: B023 - called at once
        rows["decode"].append(seconds(lambda: down.decode(data[0])))  # noqa: B023 - called at once
        rows["outer"].append(seconds(lambda: nesterov_(replica.outer, replica.momentum, moved, 0.7, 0.9)))
    median = {name: statistics.median(times) for name, times in rows.items()}
    state = replica.outer.nbytes + replica.momentum.nbytes
    return {
        "parameters": size,
        "state_bytes": state,
        "seconds": median,
        "gb_per_s": state / median["hash"] / 1e9,
        "hashes_per_sync": 3,
        "share_of_own_sync_work": 3 * median["hash"] / (3 * median["hash"] + sum(median.values()) - median["hash"]),
    }


def flips(_full: bool) -> dict[str, Any]:
    """Bits flipped in one of three replicas; as many comparisons of sound ones; bits flipped in shards."""
    number, sound = 1000, 10_000
    draw = random.Random(0)
    schema = Schema({"a": (40, 30), "b": (7,)})
    start = np.random.default_rng(0).standard_normal(schema.size).astype(np.float32)
    nodes = [Replica(schema, Rules(), start) for _ in range(3)]
    for node in nodes:
        node.roll = Roll("abc")
    caught = named = 0
    for _ in range(number):
        odd = draw.randrange(3)
        names = list(nodes[odd].fragments())
        sizes = [part.nbytes for part in nodes[odd].fragments().values()]
        name = draw.choices(names, sizes)[0]
        part = nodes[odd].fragments()[name].view(np.uint8)
        at, bit = draw.randrange(len(part)), 1 << draw.randrange(8)
        part[at] ^= bit
        verdict = vote({str(i): node.root() for i, node in enumerate(nodes)})
        caught += verdict.odd == (str(odd),)
        good = nodes[(odd + 1) % 3]
        remedy = good.remedy(b"".join(nodes[odd].tree()), good.tree(), 2**20)
        named += [each.name for each in remedy] == [name]
        part[at] ^= bit
    alarms = 0
    for _ in range(sound):
        nodes[0].outer[draw.randrange(schema.size)] += np.float32(draw.random())
        nodes[1].outer[:], nodes[2].outer[:] = nodes[0].outer, nodes[0].outer
        alarms += vote({str(i): node.root() for i, node in enumerate(nodes)}).odd != ()
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        snapshot.save(path, {"a": torch.tensor(start)}, shards=3)
        shards = sorted(path.glob("*.safetensors"))
        for _ in range(number):
            shard = draw.choice(shards)
            content = bytearray(shard.read_bytes())
            at, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
            content[at] ^= bit
            shard.write_bytes(content)
            try:
                snapshot.verify(path)
            except ClisonixError as error:
                refused += shard.name in str(error)
            content[at] ^= bit
            shard.write_bytes(content)
    return {
        "flips": number,
        "caught": caught,
        "fragment_named": named,
        "sound_comparisons": sound,
        "false_alarms": alarms,
        "shard_flips": number,
        "shard_named": refused,
    }


def snapshots(full: bool) -> dict[str, Any]:
    """How long `SnapshotWriter.save` keeps the training, per 100 MB, against one plain copy."""
    size = 25_000_000 if full else 12_500_000
    tensors = {f"t{i}": torch.randn(size // 5) for i in range(5)}
    spare = {name: tensor.clone() for name, tensor in tensors.items()}
    stalls, copies, writes = [], [], []
    with tempfile.TemporaryDirectory() as folder, snapshot.SnapshotWriter() as writer:
        writer.prepare(tensors)
        for index in range(5):
            copies.append(seconds(lambda: [spare[name].copy_(tensors[name]) for name in tensors]))
            place = Path(folder) / f"s{index % 2}"
            stalls.append(seconds(lambda: writer.save(place, tensors, shards=4)))  # noqa: B023 - called at once
            writes.append(seconds(writer.wait))
    scale = 1e8 / (4 * size)
    return {
        "bytes": 4 * size,
        "stall_ms_per_100_mb": [1000 * scale * each for each in stalls],
        "median_ms_per_100_mb": 1000 * scale * statistics.median(stalls),
        "copy_ms_per_100_mb": 1000 * scale * statistics.median(copies),
        "write_s": writes,
    }


def simulator(full: bool) -> dict[str, Any]:
    """A large group with a fault of each kind."""
    nodes, rounds = (1000, 100) if full else (200, 10)
    rules = Rules(up=CodecSettings("short"), down=CodecSettings("short"), timeout_s=4.0, resend_s=6.0)
    faults = [
        Fault(2.0, "kill", "s0001"),
        Fault(3.0, "flip", "s0002"),
        Fault(4.0, "kill", HUB, 2.0),
        Fault(5.0, "hang", "s0003", 9.0),
        Fault(6.0, "cut", "s0004", 9.0),
        Fault(7.0, "join", ""),
    ]
    begin = time.perf_counter()
    outcome = Simulator(Scenario(nodes, rounds, 1, 0.0005, 0.0005, faults, rules, limit_s=1e6)).run()
    taken = time.perf_counter() - begin
    return {"nodes": nodes, "rounds": outcome.rounds, "seconds": taken, "events": outcome.events, **vars(outcome)}


def schedules(full: bool) -> dict[str, Any]:
    """Small random fault schedules; those that break a law are listed by seed."""
    number = 1000 if full else 200
    broken: dict[int, str] = {}
    begin = time.perf_counter()
    for seed in range(number):
        try:
            Simulator(Scenario.random(seed)).run()
        except ClisonixError as error:
            broken[seed] = str(error)
    return {"schedules": number, "broken": broken, "seconds": time.perf_counter() - begin}


PARTS = {
    "digest": digest,
    "flips": flips,
    "codecs": codecs,
    "snapshot": snapshots,
    "simulator": simulator,
    "schedules": schedules,
    "faults": faults,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--full", action="store_true", help="the sizes of the claims; takes hours")
    parser.add_argument("--out", type=Path, help="add the results to this file, such as docs/results/tide.json")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    load = raw_record.load_average()
    results = {part: {"full": given.full, **PARTS[part](given.full)} for part in given.parts}
    if given.out:
        raw_record.keep(given.out, results, load, {})
    print(json.dumps(results) if given.json else json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
