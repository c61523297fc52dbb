"""Weaving stays within its memory budget however long the recording, with a dead stream and a hurried one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("memory_child.py")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to see memory")
def test_resident_memory_stays_within_the_budget() -> None:
    size, budget = 320 << 20, 32 << 20
    done = subprocess.run(
        [sys.executable, str(CHILD), str(size), str(budget)], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["grown_bytes"] < budget + (64 << 20) < size / 2
    assert found["windows"] >= found["seconds_of_signal"] - 1
    assert found["windows_with_gaps"]["dead"] == found["windows"]
    assert found["windows_with_gaps"]["array"] <= 1
    # It was held back, yet allowed to fill its share.
    assert 1 < found["hurried_ahead_s"] < 100
