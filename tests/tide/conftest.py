"""The notes of three real processes, taken once for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SIZE = 3


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """Children find each other over the loopback interface and use one thread each."""
    return {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def notes(tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> list[dict[str, Any]]:
    """What each of the three nodes of `worker.py` wrote down, in rank order; the third dies at the end."""
    folder = tmp_path_factory.mktemp("nodes")
    done = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), str(folder)],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"notes{rank}.json").read_text()) for rank in range(SIZE)]
