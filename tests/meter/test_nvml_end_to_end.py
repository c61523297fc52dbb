"""The real NVML binding on a stand-in library whose power is known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys, time
from clisonix.meter import Meter
with Meter(visible=sys.argv[1]) as meter:
    time.sleep(0.23)
    for name, seconds in (("short", 0.31), ("long", 1.13)):
        with meter.window(name):
            time.sleep(seconds)
print(json.dumps({name: {"s": meter.seconds(name), "gpus": [r.to_json() for r in meter.readings(name)]}
                  for name in meter.names()}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the stand-in for libnvidia-ml")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source), "-lm"], check=True
    )
    return folder


@pytest.mark.parametrize(
    ("visible", "watts"), [("0", {"gpu:0": 500.0}), ("GPU-0002,0", {"gpu:1": 100.0, "gpu:0": 500.0})]
)
def test_known_power_is_inside_the_interval(library: Path, visible: str, watts: dict[str, float]) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, visible],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    for window in json.loads(run.stdout).values():
        gpus = {reading["device"]: reading for reading in window["gpus"] if reading["source"] == "nvml-counter"}
        assert set(gpus) == set(watts)
        for device, reading in gpus.items():
            truth = watts[device] * window["s"]
            assert reading["low"] <= truth <= reading["high"]
            assert reading["joules"] == pytest.approx(truth, rel=0.35 if window["s"] < 1 else 0.1)
            assert reading["refresh_s"] == pytest.approx(0.1, abs=0.05)
