"""Kill a loader at random points, resume it on other ranks and threads, and compare with what was never killed.

    python scripts/bench/fabric_kill.py --kills 200 --json

Every attempt forks as many processes as it has ranks. They move in step, as ranks that train together do, and after
each step rank 0 writes the cursor, as a checkpoint does. `kill -9` hits all of them after a random time; the next
attempt begins at the last cursor, with another number of ranks and threads. In the end the windows that were seen,
rank after rank and step after step up to each cursor, must be the order of the epochs, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.fabric import Loader, Modality, Recording, SignalFabric, Stream, Window

WORLDS, THREADS = (1, 2, 4), (0, 1, 2)


def weave(rank: int = 0, world: int = 1, size: int = 3) -> SignalFabric:
    """Two recordings with a gap, an integer stream, and one modality that is resampled."""
    rng = np.random.default_rng(0)
    recordings = []
    for i in range(2):
        eeg = rng.standard_normal((4, 64 * (30 + 7 * i)), np.float32)
        eeg[1, 200:260] = np.nan
        ppg = (rng.standard_normal((1, 50 * 30)) * 1000).astype(np.int16)
        streams = {"eeg": Stream(eeg, 64.0), "ppg": Stream(ppg, 50.0, start_s=0.5, scale=0.01)}
        recordings.append(Recording(f"r{i}", streams))
    shapes = {"eeg": Modality(4, 32.0, 64), "ppg": Modality(1, 50.0, 100)}
    return SignalFabric(
        recordings,
        window=2.0,
        hop=0.25,
        modalities=shapes,
        batch_size=size,
        shuffle=True,
        seed=5,
        rank=rank,
        world=world,
    )


def prints(batch: Window) -> list[tuple[int, str]]:
    """The number of each window that counts, and a hash of all its bytes."""
    found = []
    for i in np.flatnonzero(batch["weight"].numpy()):
        digest = hashlib.sha256()
        for kind in (batch["streams"], batch["masks"]):
            for name in sorted(kind):
                digest.update(kind[name][i].contiguous().numpy().tobytes())
        found.append((int(batch["window"][i]), digest.hexdigest()))
    return found


def one_rank(folder: Path, attempt: int, rank: int, world: int, threads: int, epochs: int, barrier: Any) -> None:  # noqa: ANN401
    """Go on from the last cursor, note what is seen, until the epochs are over or the process is killed."""
    fabric = weave(rank, world, size=random.Random(attempt).randint(1, 5))
    loader = Loader(fabric, threads=threads, prefetch=8)
    cursor = folder / "cursor.json"
    if cursor.exists():
        loader.load_state_dict(json.loads(cursor.read_text()))
    with (folder / f"seen-{attempt:04d}-{rank}.jsonl").open("a") as log:
        while (epoch := loader.state_dict()["epoch"]) < epochs:
            for batch in loader:
                state = loader.state_dict()
                log.write(json.dumps([epoch, state["position"], prints(batch)]) + "\n")
                log.flush()
                barrier.wait()
                if rank == 0:
                    draft = cursor.with_suffix(".draft")
                    draft.write_text(json.dumps(state))
                    draft.replace(cursor)
                barrier.wait()
    if rank == 0:
        (folder / "finished").touch()


def seen(folder: Path) -> list[tuple[int, int, str]]:
    """Epoch, window and hash of all that was seen up to the cursors, in order."""
    found: list[tuple[int, int, str]] = []
    cursors = {int(k): tuple(v) for k, v in json.loads((folder / "reached.json").read_text()).items()}
    for attempt, reached in sorted(cursors.items()):
        steps: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
        for file in sorted(folder.glob(f"seen-{attempt:04d}-*.jsonl")):
            for line in file.read_text().splitlines():
                try:
                    epoch, position, windows = json.loads(line)
                except ValueError:
                    continue  # killed while it wrote this line, so before the cursor
                if (epoch, position) <= reached:
                    steps.setdefault((epoch, position), []).extend((epoch, w, h) for w, h in windows)
        for step in sorted(steps):
            found += steps[step]
    return found


def run(folder: Path, kills: int, epochs: int, seed: int = 0, longest_s: float = 0.12) -> dict[str, Any]:
    """Kill and resume until the epochs are over; what was seen against what there is."""
    fork, rng = multiprocessing.get_context("fork"), random.Random(seed)
    cursor, reached = folder / "cursor.json", {}
    killed, changed, before, attempt = 0, 0, (0, 0), 0
    while not (folder / "finished").exists():
        now = (rng.choice(WORLDS), rng.choice(THREADS))
        changed += attempt > 0 and now != before
        before = now
        barrier = fork.Barrier(now[0])
        ranks = [
            fork.Process(target=one_rank, args=(folder, attempt, r, *now, epochs, barrier)) for r in range(now[0])
        ]
        for process in ranks:
            process.start()
        if killed < kills:
            time.sleep(rng.uniform(0.0, longest_s))
            alive = [process for process in ranks if process.is_alive()]
            for process in alive:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
            killed += bool(alive)
        for process in ranks:
            process.join(60)
            if process.is_alive():
                process.kill()
                raise SystemExit(f"attempt {attempt} with {now[0]} ranks and {now[1]} threads hangs")
        state = json.loads(cursor.read_text()) if cursor.exists() else {"epoch": 0, "position": 0}
        reached[attempt] = (state["epoch"], state["position"])
        attempt += 1
    (folder / "reached.json").write_text(json.dumps(reached))
    size = len(json.dumps(state))
    # Last, since threads that numerical libraries begin here would not survive a fork.
    fabric, want = weave(size=7), []
    for epoch in range(epochs):
        want += [(epoch, w, h) for batch in fabric for w, h in prints(batch)]
        order = fabric.order(epoch).tolist()
        assert [w for e, w, _ in want if e == epoch] == order
    got = seen(folder)
    return {
        "kills": killed,
        "attempts": attempt,
        "topology_changes": changed,
        "epochs": epochs,
        "windows": len(want),
        "same_order": [g[:2] for g in got] == [w[:2] for w in want],
        "bitwise_same": got == want,
        "lost": len(set(want) - set(got)),
        "twice": len(got) - len(set(got)),
        "cursor_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a listing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), arguments.kills, arguments.epochs, arguments.seed)
    print(json.dumps(found) if arguments.json else "\n".join(f"{k}: {v}" for k, v in found.items()))
    if not found["bitwise_same"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
