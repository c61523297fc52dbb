"""What all tests share: the recordings, and no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def data_root() -> Path:
    """The folder of real recordings; the test is skipped without it."""
    root = os.environ.get("CLISONIX_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("CLISONIX_DATA does not name a folder with the recordings")
    return Path(root)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in this process may look up a host or connect to one."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a test tried to reach the network: {args[1:] or args}")

    for name in ("connect", "connect_ex"):
        allowed = getattr(socket.socket, name)

        def local_only(self: socket.socket, address: object, allowed: Callable[..., object] = allowed) -> object:
            # Data loader workers hand tensors over through sockets that are files.
            return allowed(self, address) if self.family == socket.AF_UNIX else refuse(self, address)

        monkeypatch.setattr(socket.socket, name, local_only)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
