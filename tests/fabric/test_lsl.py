"""Live streams: nothing is lost but what was not sent, and nothing is left behind.

liblsl's outlets listen on every interface, whatever its configuration says. So all of this runs in a network
namespace that has a loopback device and nothing else, and is skipped where the system does not allow one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric.sources.lsl import LslSource

pytestmark = pytest.mark.slow
CHILD = Path(__file__).with_name("lsl_child.py")
CHECKS = ("absent", "restart", "bounded", "woven")


@pytest.fixture(scope="module")
def found() -> Mapping[str, Any]:
    pytest.importorskip("pylsl", exc_type=Exception)
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--net"]
    for alone in ([unshare or "", "--net"], [unshare or "", "--user", "--map-root-user", "--net"]):
        if unshare and subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip(
            "this system gives no network of its own to a process, and liblsl would listen on every interface"
        )
    done = subprocess.run([*alone, sys.executable, str(CHILD), *CHECKS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result: Mapping[str, Any] = json.loads(done.stdout)
    return result


def test_a_stream_that_is_not_there_is_told(found: Mapping[str, Any]) -> None:
    assert "there is no live stream 'nobody'" in found["absent"]["error"]


def test_a_restarted_producer_goes_on_in_a_new_segment(found: Mapping[str, Any]) -> None:
    seen = found["restart"]
    for part, first in (("one", 0), ("two", 10_000)):
        low, high, count, sent = seen[part]
        assert low == first
        assert count == high - low + 1
        # What a killed producer had said it would send may not have left it.
        assert high >= sent - 5
    assert seen["segments"] == [0, seen["one"][2]]
    assert seen["index"]
    assert seen["forward"]
    assert seen["offset_s"] < 0.005
    assert seen["rate_hz"] == 250


def test_no_thread_is_left(found: Mapping[str, Any]) -> None:
    assert found["restart"]["threads"] == 0


def test_what_nobody_takes_is_bounded_and_stopping_is_quick(found: Mapping[str, Any]) -> None:
    assert found["bounded"]["waiting"] <= 1000 + 100
    assert found["bounded"]["stop_s"] < 1


def test_live_streams_become_windows(found: Mapping[str, Any]) -> None:
    assert found["woven"]["full"] >= 3
    assert found["woven"]["steady"]


def test_without_pylsl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylsl", None)
    with pytest.raises(ClisonixError, match=r"pip install 'clisonix\[live\]'"):
        LslSource(["eeg"])
