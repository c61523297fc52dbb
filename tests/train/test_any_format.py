"""A recipe trains on recordings that only the fabric's sources read, and on subsets of what it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import Loader, Window
from clisonix.train import train
from clisonix.train.config import RunConfig, parse_config
from clisonix.train.learner import Learner, choose_device
from clisonix.train.task import open_task


def recipe(streams: dict[str, Any], length_s: float, **data: Any) -> RunConfig:
    content = {
        "name": "tiny",
        "data": {
            "streams": streams,
            "window": {"length_s": length_s, "around": "events"},
            "split": {"by": "copy", "test": ["b"]},
            **data,
        },
        "model": {"width": 16, "depth": 1, "tokens": {n: {"token_s": 0.5, "hop_s": 0.25} for n in streams}},
        "train": {"epochs": 1, "batch_size": 8},
    }
    return parse_config(content, "test")


def copies(source: Path, names: list[str], folder: Path) -> None:
    """The same record twice: one to train on, one to test on. What is learnt does not matter here."""
    for copy in ("a", "b"):
        (folder / copy).mkdir()
        for name in names:
            if not (source / name).is_file():
                pytest.skip(f"{name} is not among the recordings")
            shutil.copy(source / name, folder / copy / name)


@pytest.mark.data
def test_an_xdf_file_trains(data_root: Path, tmp_path: Path) -> None:
    copies(data_root / "bci_essentials", ["switch_example.xdf"], tmp_path)
    eeg = {
        "reader": "file", "files": "*/*.xdf", "name": "{copy}/switch_example", "stream": "g.USBamp-1",
        "labels": {f"switch,3,{k},2": f"state {k}" for k in (0, 1, 2)},
    }  # fmt: skip
    from clisonix.fabric import open_source

    info = open_source(tmp_path / "a/switch_example.xdf").inspect()
    eeg["stream"] = info.streams[0].name
    record = train(recipe({"eeg": eeg}, 2.0), tmp_path / "run", root=tmp_path)
    assert record.data["classes"] == ["state 0", "state 1", "state 2"]
    assert (record.data["train_windows"], record.data["test_windows"]) == (50, 50)
    [line] = [json.loads(text) for text in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert 0 <= line["input_seconds"] < line["seconds"]


@pytest.mark.data
def test_a_wfdb_record_trains(data_root: Path, tmp_path: Path) -> None:
    copies(data_root / "wfdb_samples", ["100.hea", "100.dat", "100.atr"], tmp_path)
    ecg = {
        "reader": "file", "files": "*/100.hea", "name": "{copy}/100", "channels": ["MLII"],
        "labels": {"A": "atrial", "V": "ventricular"},
    }  # fmt: skip
    record = train(recipe({"ecg": ecg}, 1.0, window={"length_s": 1.0, "around": "events", "offset_s": -0.5}),
                   tmp_path / "run", root=tmp_path)  # fmt: skip
    assert record.data["classes"] == ["atrial", "ventricular"]
    assert record.data["test_windows"] == 34


def tables(folder: Path, takes: int = 4) -> dict[str, Any]:
    """A marker every second, of two kinds."""
    for take in range(takes):
        copy = "b" if take == 0 else "a"
        rows = "".join(
            f"{i / 50},{np.sin(i + take):.5f},{(i // 50) % 2 + 1 if i % 50 == 25 else 0}\n" for i in range(1000)
        )
        (folder / f"{copy}{take}.csv").write_text("time,x,marker\n" + rows)
    return {"x": {"reader": "file", "files": "*.csv", "name": "{copy:1}{take}", "rate_hz": 50}}


def contents(batches: list[Window]) -> list[bytes]:
    return [b["window"].numpy().tobytes() + b["streams"]["x"].numpy().tobytes() for b in batches]


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_batches_are_those_of_the_fabric_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    config = recipe(tables(tmp_path), 1.0)
    plain, ahead = (open_task(config, tmp_path).train for _ in range(2))
    loader = Loader(ahead, threads=threads)
    for _ in range(2):
        assert contents(list(loader)) == contents(list(plain))
    assert loader.stats.asked_s > 0


def test_going_on_from_any_step_gives_the_same_weights(tmp_path: Path) -> None:
    config = recipe(tables(tmp_path), 1.0)
    whole = Learner(config, open_task(config, tmp_path), choose_device("cpu"))
    start = whole.write(tmp_path / "start")
    marks = {step: whole.write(tmp_path / "points") for step in whole.advance() if step in (1, 3)}
    # A checkpoint between two steps does not make the batches anew.
    assert whole.step == whole.steps
    for path in (start, *marks.values()):
        again = Learner(config, open_task(config, tmp_path), choose_device("cpu"))
        again.restore(path)
        for _ in again.advance():
            pass
        for name, value in whole.model.state_dict().items():
            assert value.numpy().tobytes() == again.model.state_dict()[name].numpy().tobytes()


def test_every_rank_is_tested_on_all_held_out_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(tables(tmp_path), 1.0)
    alone = len(open_task(config, tmp_path).train)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    task = open_task(config, tmp_path)
    assert (task.test.ranks.rank, task.test.ranks.world) == (0, 1)
    assert sum(len(batch["label"]) for batch in task.test) == len(task.test.table)
    assert len(task.train) == alone // 3


def test_too_few_windows_for_a_batch_are_told(tmp_path: Path) -> None:
    streams = tables(tmp_path)
    config = recipe(streams, 1.0).model_dump()
    config["train"]["batch_size"] = 500
    with pytest.raises(ClisonixError, match=r"60 windows to train on.*lower train\.batch_size"):
        open_task(parse_config(config, "test"), tmp_path)


def test_what_sources_note_is_in_the_record(tmp_path: Path) -> None:
    streams = tables(tmp_path)
    del streams["x"]["rate_hz"]
    notes = open_task(recipe(streams, 1.0), tmp_path).notes
    assert "x: the rate 50 Hz was taken from the first 1000 times (in 4 files)" in notes
