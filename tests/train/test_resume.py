"""Killed anywhere, a run ends with bitwise the same weights."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import ROOT, SMALL, Clisonix, command, environment

from clisonix.meter.recording.record import read_record

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
    # Often enough that writing is among the moments to be killed in, and so early on average that the kills fall into
    # one run; on a machine that got faster meanwhile it ends before, and the rest fall into a second one.
    longest_s = read_record(finished_run).time["train_s"] / KILLS
    killed = 0
    for i in itertools.count():
        folder = tmp_path / f"run-{i}"
        train = ("train", CONFIG, *SMALL, "train.checkpoint_every_s=0.05", "--out", folder)
        here = 0
        while True:
            process = subprocess.Popen(
                command(*train, *(["--resume"] if here else [])), env=environment(), stderr=subprocess.PIPE
            )
            if killed < KILLS:
                # The trace of an attempt is written when training begins; a kill before that finds nothing to spoil.
                while process.poll() is None and not (folder / f"trace-{here}.npz").exists():
                    time.sleep(0.005)
                time.sleep(rng.uniform(0.0, longest_s))
                process.send_signal(signal.SIGKILL)
            _, complaint = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, complaint
            killed, here = killed + 1, here + 1
        _check(folder, finished_run, here, clisonix)
        if killed >= KILLS:
            return


def _check(folder: Path, reference: Path, kills: int, clisonix: Clisonix) -> None:
    assert same(weights(folder), weights(reference))
    record = read_record(folder)
    assert record.quality == read_record(reference).quality
    # A kill after the last figure was written cuts nothing off.
    cut_off = sum(not attempt["ended_cleanly"] for attempt in record.attempts)
    assert kills - 1 <= cut_off <= kills
    assert any("were cut off" in note for note in record.notes) == (cut_off > 0)
    assert clisonix("verify", folder).returncode == 0
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
