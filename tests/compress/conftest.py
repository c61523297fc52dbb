from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_zoo import ZOO, make
from torch import nn


@pytest.fixture(params=sorted(ZOO))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """Each kind of model with a batch of its inputs."""
    return make(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These matrices are tiny: a second thread only waits for the first, for very long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
