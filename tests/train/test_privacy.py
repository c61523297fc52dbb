"""Whoever was recorded does not show in anything that a training run writes or says."""

from __future__ import annotations

import logging
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.train import train
from clisonix.train.config import parse_config
from clisonix.train.task import open_task

sys.path.insert(0, str(Path(__file__).parents[1] / "fabric"))
from sample_files import SECRET
from secret_files import PLANTED

# Its year alone would be found among the digits of any figure.
NAMES = [*(part for part in SECRET.split("-") if part.isalpha()), SECRET]


def check(content: bytes, where: str) -> None:
    """No part of the name, in any spelling or width of characters."""
    for name in NAMES:
        for text in (name, name.lower(), name.upper()):
            for spelt in (text.encode(), text.encode("utf-16-le")):
                assert spelt not in content, f"{name} is in {where}"


def written(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            check(content, str(path.relative_to(folder)))
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        check(archive.read(name), f"{path.name}/{name}")


def recipe(folder: Path, name: str) -> dict[str, Any]:
    """Two copies of a planted file: one to train on, one to test on."""
    suffix = name.partition(".")[2]
    for take in ("one", "two"):
        (folder / take).mkdir()
        PLANTED[name](folder / take / name)
    stream = {"xdf": "eeg", "edf": "signals_16hz", "bdf": "signals_16hz", "zip": "acc", "acq": "signals_1000hz"}.get(
        suffix
    )
    return {
        "name": "private",
        "data": {
            "streams": {"x": {"reader": "file", "files": f"*/{name}", "name": "{take}/a", "stream": stream}},
            "label": "take",
            "window": {"length_s": 0.5, "hop_s": 8.0 if suffix == "acq" else 0.25},
            "split": {"by": "take", "test": ["two"]},
        },
        "model": {"width": 16, "depth": 1, "tokens": {"x": {"token_s": 0.25, "hop_s": 0.25}}},
        "train": {"epochs": 1, "batch_size": 2, "checkpoint_every_s": 0},
    }


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_run_holds_nothing_about_the_person(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = parse_config(recipe(tmp_path, name), "test")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        record = train(config, tmp_path / "run", root=tmp_path)
        task = open_task(config, tmp_path)
    assert record.data["train_windows"] > 1
    assert (tmp_path / "run/report.html").is_file()
    assert list((tmp_path / "run/checkpoint").rglob("*.safetensors"))
    written(tmp_path / "run")
    said = repr(task) + repr(task.train.recordings) + repr(record) + "".join(str(w.message) for w in warned)
    check((said + "".join(capfd.readouterr()) + caplog.text).encode(), "what was said")


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_errors_of_a_run_do_not_quote_a_damaged_file(tmp_path: Path, name: str) -> None:
    config = parse_config(recipe(tmp_path, name), "test")
    path = tmp_path / "one" / name
    content = path.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(12):
        at, size = int(generator.integers(min(len(content), 1200))), int(generator.integers(1, 80))
        path.write_bytes(content[:at] + content[at + size :])
        try:
            said = repr(open_task(config, tmp_path).notes)
        except ClisonixError as error:
            said = f"{error} {error!r}"
        check(said.encode(), "an error or a note")
