"""A small run on the embedded recordings, by the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
