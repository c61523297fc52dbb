"""A folder with runs and a browser-like client; everything stays in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from example_runs import TOKEN, make_run

with warnings.catch_warnings():
    # Newer starlette prefers a successor of httpx; both serve these tests.
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient` is deprecated")
    from starlette.testclient import TestClient

from clisonix.demo import create_app

ADDRESS = "http://127.0.0.1:8123"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the runs `dense` and `packed`, and a secret beside it."""
    (tmp_path / "secret").mkdir()
    make_run(tmp_path / "secret" / "other", name="SECRET")
    folder = tmp_path / "runs"
    make_run(folder / "dense")
    make_run(folder / "packed", size={"bytes": 5120, "file": "model.safetensors"}, time={"train_s": 30.875})
    return folder


@pytest.fixture
def make_client() -> Callable[[Path], TestClient]:
    """A client that has not shown a token yet."""
    return lambda folder: TestClient(
        create_app(folder, TOKEN), base_url=ADDRESS, follow_redirects=False, raise_server_exceptions=True
    )


@pytest.fixture
def client(runs: Path, make_client: Callable[[Path], TestClient]) -> TestClient:
    """A client that came in with the token."""
    entered = make_client(runs)
    assert entered.get(f"/?token={TOKEN}").status_code == 200
    return entered


@pytest.fixture
def make_wav() -> Callable[..., None]:
    """Writes a sound file of a wandering tone with noise."""

    def write(path: Path, seconds: float = 5.0, rate_hz: int = 8000) -> None:
        time_s = np.arange(int(seconds * rate_hz)) / rate_hz
        noise = np.random.default_rng(0).normal(0, 0.02, len(time_s))
        sound = 0.3 * np.sin(2 * np.pi * np.cumsum(150 + 40 * np.sin(time_s)) / rate_hz) + noise
        soundfile.write(path, sound, rate_hz)

    return write
