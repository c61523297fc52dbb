"""Killed anywhere, a run ends with bitwise the same weights."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SMALL, Clisonix, command, environment
from safetensors.numpy import load_file

from clisonix.meter.record import read_record

CONFIG = ROOT / "configs/quickstart.yaml"
KILLS = 10


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_end_in_the_same_weights(finished_run: Path, tmp_path: Path, clisonix: Clisonix) -> None:
    rng = random.Random(20)
    folder = tmp_path / "run"
    # Checkpoints often enough that there are many states to be killed in, writing included; and so early on average
    # that ten kills fit into the run whatever the machine's speed.
    train = ("train", CONFIG, *SMALL, "train.checkpoint_every_s=0.05", "--out", folder)
    longest_s = read_record(finished_run).time["train_s"] / KILLS
    for attempt in range(KILLS):
        process = subprocess.Popen(
            command(*train, *(["--resume"] if folder.exists() else [])), env=environment(), stderr=subprocess.PIPE
        )
        # The trace of an attempt is written when training begins; before that a kill finds nothing to spoil.
        while process.poll() is None and not (folder / f"trace-{attempt}.npz").exists():
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, longest_s))
        process.send_signal(signal.SIGKILL)
        _, complaint = process.communicate()
        assert process.returncode == -signal.SIGKILL, complaint
    done = clisonix(*train, "--resume")
    assert done.returncode == 0, done.stderr
    assert same(weights(folder), weights(finished_run))
    record = json.loads((folder / "record.json").read_text())
    reference = json.loads((finished_run / "record.json").read_text())
    assert record["quality"] == reference["quality"]
    assert sum(not a["ended_cleanly"] for a in record["attempts"]) == KILLS
    assert any("were cut off" in note for note in record["notes"])
    assert clisonix("verify", folder).returncode == 0
    # Every epoch is in the log, and what was paid for twice is in the account.
    epochs = {json.loads(line)["epoch"] for line in (folder / "log.jsonl").read_text().splitlines()}
    assert epochs == set(range(4))
    assert not list((folder / "checkpoint").glob(".draft-*"))


def test_the_same_command_twice_gives_the_same_weights(
    finished_run: Path, tmp_path: Path, clisonix: Clisonix
) -> None:
    done = clisonix("train", CONFIG, *SMALL, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert same(weights(tmp_path / "run"), weights(finished_run))


def test_a_finished_run_is_left_alone(finished_run: Path, clisonix: Clisonix) -> None:
    before = (finished_run / "record.json").read_bytes()
    done = clisonix("train", CONFIG, *SMALL, "--out", finished_run, "--resume")
    assert done.returncode == 0
    assert "finished already" in done.stderr
    assert (finished_run / "record.json").read_bytes() == before
