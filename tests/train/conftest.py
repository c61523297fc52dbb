"""Runs that several tests look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from small_runs import ROOT, SMALL, Clisonix, command, environment


@pytest.fixture
def clisonix() -> Clisonix:
    """Run the command line in a process of its own."""

    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(**more))

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that is compressed half-way."""
    return _train(tmp_path_factory.mktemp("finished") / "compressed", *SMALL)


@pytest.fixture(scope="session")
def dense_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without compression."""
    return _train(tmp_path_factory.mktemp("finished") / "dense", *SMALL, "compress=null")


def _train(folder: Path, *overrides: str) -> Path:
    done = subprocess.run(
        command("train", ROOT / "configs/quickstart.yaml", *overrides, "--out", folder),
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return folder
