"""Running a script as two processes that talk over loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def notes_of_both(worker: Path, folder: Path) -> list[dict[str, Any]]:
    """Run `worker folder rank` for ranks 0 and 1 at once, and read the `notes<rank>.json` that each leaves."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(folder), str(rank)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    complaints = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], complaints
    return [json.loads((folder / f"notes{rank}.json").read_text()) for rank in range(2)]
