"""Bad input: one sentence, exit code 2, nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyedflib
import pytest
import soundfile
import yaml
from small_runs import ROOT, SMALL, Clisonix, command, environment

from clisonix.errors import ClisonixError
from clisonix.train import load_config, train
from clisonix.train.checkpoint import list_checkpoints

CONFIG = ROOT / "configs/quickstart.yaml"
TABLE = "t,x,m\n" + "".join(
    f"{i / 50},{np.sin(i):.6f},{(i // 50) % 2 + 1 if i % 50 == 25 else 0}\n" for i in range(2000)
)


def refused(done: subprocess.CompletedProcess[str], sentence: str, folder: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists(), "something was written"


def config(tmp_path: Path, source: dict[str, object], **window: object) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "data": {
                    "streams": {"x": source},
                    "label": None if window else "label",
                    "window": {"length_s": 0.5, **window},
                    "split": {"by": "take", "test": [0]},
                },
                "model": {"width": 16, "depth": 1, "tokens": {"x": {"token_s": 0.1, "hop_s": 0.05}}},
                "train": {"epochs": 1, "batch_size": 4},
            }
        )
    )
    return path


def csv_config(tmp_path: Path) -> Path:
    source = {
        "reader": "csv", "files": "*.csv", "name": "r{take}", "channels": ["x"], "time": "t", "marker": "m",
        "rate_hz": 50,
    }  # fmt: skip
    for take in range(3):
        (tmp_path / f"r{take}.csv").write_text(TABLE)
    return config(tmp_path, source, around="events")


def test_an_unknown_key_names_the_nearest(tmp_path: Path, clisonix: Clisonix) -> None:
    folder = tmp_path / "run"
    done = clisonix("train", CONFIG, "train.epoch=3", "--out", folder)
    refused(done, "unknown key 'train.epoch'; did you mean 'epochs'?", folder)


def test_a_missing_config_and_a_missing_recording(tmp_path: Path, clisonix: Clisonix) -> None:
    folder = tmp_path / "run"
    refused(clisonix("train", tmp_path / "no.yaml", "--out", folder), "no.yaml: No such file", folder)
    path = csv_config(tmp_path)
    done = clisonix("train", path, "data.streams.x.files=no/*.csv", "--out", folder, "--data", tmp_path)
    refused(done, "no file below", folder)


def test_a_truncated_csv(tmp_path: Path, clisonix: Clisonix) -> None:
    path, folder = csv_config(tmp_path), tmp_path / "run"
    (tmp_path / "r1.csv").write_text(TABLE[: len(TABLE) // 2].rpartition(",")[0])
    refused(clisonix("train", path, "--out", folder, "--data", tmp_path), "may be truncated", folder)


def test_a_truncated_wav(tmp_path: Path, clisonix: Clisonix) -> None:
    folder = tmp_path / "run"
    for take in range(3):
        soundfile.write(tmp_path / f"{take % 2}_{take}.wav", np.zeros(8000, np.float32), 8000)
    whole = (tmp_path / "0_2.wav").read_bytes()
    (tmp_path / "0_2.wav").write_bytes(whole[: len(whole) // 2])
    path = config(tmp_path, {"reader": "audio", "files": "*.wav", "name": "{label}_{take}"})
    refused(clisonix("train", path, "--out", folder, "--data", tmp_path), "0_2.wav is truncated", folder)


def test_a_truncated_edf(tmp_path: Path, clisonix: Clisonix) -> None:
    folder = tmp_path / "run"
    for take in range(3):
        with pyedflib.EdfWriter(str(tmp_path / f"{take % 2}_{take}.edf"), 1) as writer:
            writer.setSignalHeader(0, {**pyedflib.highlevel.make_signal_header("Cz"), "sample_frequency": 100})
            writer.writeSamples([np.zeros(1000)])
    whole = (tmp_path / "1_1.edf").read_bytes()
    (tmp_path / "1_1.edf").write_bytes(whole[:-100])
    path = config(tmp_path, {"reader": "edf", "files": "*.edf", "name": "{label}_{take}", "channels": ["Cz"]})
    refused(clisonix("train", path, "--out", folder, "--data", tmp_path), "may be truncated", folder)


def test_a_nan_stretch_is_masked_and_counted_not_fatal(tmp_path: Path) -> None:
    path = csv_config(tmp_path)
    rows = TABLE.splitlines()
    rows[100:160] = [",".join([row.split(",")[0], "nan", row.split(",")[2]]) for row in rows[100:160]]
    (tmp_path / "r1.csv").write_text("\n".join(rows) + "\n")
    record = train(load_config(path), tmp_path / "run", root=tmp_path)
    assert any(note.startswith("x: 60 of 6000 values were not measured") for note in record.notes)
    assert record.quality is not None
    assert np.isfinite(record.quality["value"])
    assert "60 of 6000 values" in (tmp_path / "run/report.html").read_text()


def test_a_damaged_checkpoint_is_named_and_an_earlier_one_still_serves(
    finished_run: Path, tmp_path: Path, clisonix: Clisonix
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / "record.json").unlink()
    [*_, newest] = list_checkpoints(folder / "checkpoint")
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    before = sorted(p.name for p in folder.rglob("*"))
    again = ("train", CONFIG, *SMALL, "--out", folder, "--resume")
    done = clisonix(*again)
    assert done.returncode == 2
    assert f"delete the folder {newest.name} to go on from an earlier checkpoint" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in folder.rglob("*")) == before
    shutil.rmtree(newest)
    assert clisonix(*again).returncode == 0
    assert (folder / "model.safetensors").read_bytes() == (finished_run / "model.safetensors").read_bytes()


def test_a_run_is_never_overwritten_or_mixed(finished_run: Path, tmp_path: Path, clisonix: Clisonix) -> None:
    for arguments, sentence in (
        ((), "holds a run already"),
        (("--resume", "seed=5"), "started with another config (seed was 0, is 5)"),
        (("--replace", "name=other"), "holds the run 'quickstart'"),
    ):
        done = clisonix("train", CONFIG, *SMALL, "--out", finished_run, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for flag in ("--replace", "--resume"):
        done = clisonix("train", CONFIG, "--out", tmp_path / "mine", flag)
        assert done.returncode == 2
        assert "is no run folder" in done.stderr
    assert (tmp_path / "mine/thesis.txt").exists()
    done = clisonix("train", CONFIG, "--out", tmp_path / "none", "--resume")
    refused(done, "no run to resume", tmp_path / "none")


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    path = csv_config(tmp_path)
    overrides = ["train.learning_rate=1e30", "train.warmup=0", "train.clip_norm=1e30", "train.epochs=5"]
    said = r"the loss is (nan|inf) in step 2: the layer .* lower train\.learning_rate"
    with pytest.raises(ClisonixError, match=said):
        train(load_config(path, overrides), tmp_path / "run", root=tmp_path)
    assert not (tmp_path / "run/record.json").exists()


def test_a_full_disk_while_training_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = csv_config(tmp_path), tmp_path / "run"
    train(load_config(path, ["train.epochs=2"]), folder, root=tmp_path)
    kept = list_checkpoints(folder / "checkpoint")
    whole = {p: p.read_bytes() for p in kept[-1].iterdir()}
    (folder / "record.json").unlink()
    for old in kept[:-1]:
        shutil.rmtree(old)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClisonixError, match="the disk is full"):
        train(load_config(path, ["train.epochs=2"]), folder, root=tmp_path, resume=True)
    assert {p: p.read_bytes() for p in whole} == whole
    assert not list(folder.rglob(".*"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        done = subprocess.run(
            command("train", CONFIG, *SMALL, "model.width=64", "--out", disk / "run"),
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 2, done.stderr
        assert "the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        left = [p for p in (disk / "run").rglob("*") if p.is_file()]
        assert not [p for p in left if p.name == "record.json" or p.name.startswith(".")]
        for checkpoint in list_checkpoints(disk / "run/checkpoint"):
            assert (checkpoint / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
