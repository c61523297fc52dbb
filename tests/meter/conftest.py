from __future__ import annotations

from pathlib import Path

import pytest
from fake_library import build, compiler


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libnvidia-ml, built once."""
    if compiler() is None:
        pytest.skip("there is no C compiler to build the stand-in for libnvidia-ml")
    return build(tmp_path_factory.mktemp("nvml"))
