"""The notes of three real processes, taken once for all tests."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SIZE = 3


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for all tests, but here nodes may reach each other over the loopback interface."""
    for name in ("connect", "connect_ex"):
        allowed = getattr(socket.socket, name)

        def local_only(self: socket.socket, address: Any, allowed: Callable[..., object] = allowed) -> object:
            if self.family != socket.AF_UNIX and not ipaddress.ip_address(address[0]).is_loopback:
                raise AssertionError(f"a test tried to reach the network: {address}")
            return allowed(self, address)

        monkeypatch.setattr(socket.socket, name, local_only)


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
