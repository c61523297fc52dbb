"""Measuring starts no process, opens no socket, and imports nothing that it was not asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fake_library import run

PROGRAM = """
import sys
events = []
def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pty.")):
        events.append((event, str(arguments)[:80]))
sys.addaudithook(watch)
before = set(sys.modules)
from clisonix.meter import Meter
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
heavy = {"codecarbon", "pandas", "requests", "urllib3", "jinja2", "scipy", "pydantic", "rich", "torch", "pynvml"}
assert not loaded & heavy, loaded & heavy
with Meter(ram=True, trace_path=sys.argv[1], flush_s=0.05) as meter:
    for k in range(3):
        with meter.window(f"train/{k}", sync=True):
            sum(i * i for i in range(10_000))
    meter.idle(0.05)
    meter.energy("train"), meter.readings("train"), meter.split("train"), meter.energy_so_far()
    meter.save_trace(sys.argv[1])
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
assert not loaded & (heavy - {"pynvml"}), loaded & heavy
assert events == [], events
print(meter.energy("train").source)
"""


def test_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "t.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_on_a_machine_with_gpus(library: Path, tmp_path: Path) -> None:
    assert "nvml-counter" in run(PROGRAM, library, None, str(tmp_path / "t.npz"))
