"""Importing the package is cheap and has no effects."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import clisonix

PROBE = """
import json, sys
import torch
before = set(sys.modules)
sockets = []
sys.addaudithook(lambda event, args: sockets.append(event) if event.startswith("socket.") else None)
import clisonix
print(json.dumps({
    "new": sorted({m.split(".")[0] for m in set(sys.modules) - before}),
    "sockets": sockets,
    "device": torch.cuda.is_initialized(),
}))
"""


def test_import_loads_nothing_heavy_and_touches_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen == {"new": ["clisonix"], "sockets": [], "device": False}


@pytest.mark.parametrize("name", clisonix.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(clisonix, name))
    assert name in dir(clisonix)


def test_the_package_and_the_function_compress_share_a_name() -> None:
    for first in ("import clisonix", "import clisonix.compress.sizes", "from clisonix import plan"):
        code = (
            f"{first}\nimport clisonix, torch\n"
            "small = clisonix.compress(torch.nn.Sequential(torch.nn.Linear(64, 64)), 0.5)\n"
            "print(type(small[0]).__name__, clisonix.compress.load is clisonix.load)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "LiamLinear True"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clisonix.nothing
