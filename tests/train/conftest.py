"""A small run on the embedded recordings, by the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Any use of the network ends the process: the command line must work without.
CLI = """
import sys
def hook(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"the network was touched: {event} {args}")
sys.addaudithook(hook)
from clisonix.cli import main
main()
"""
SMALL = (
    "model.width=16", "model.depth=1", "train.epochs=4", "data.window.hop_s=4.0", "train.evaluate_every=2",
    "compress={budget: 0.6, after: 0.5}",
)  # fmt: skip

Clisonix = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", CLI, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "400", **more}


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
