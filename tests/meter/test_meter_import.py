from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import clisonix.meter
from clisonix.meter import Energy, carbon
carbon(Energy(1.0, 1.0, 1.0, "s", "s", "d"), "FRA")
heavy = {"pandas", "codecarbon", "pynvml", "jinja2", "scipy", "torch", "rich", "requests"} & set(sys.modules)
heavy |= {"http.server", "socketserver", "prometheus_client", "tensorboard", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_the_room_and_asking_for_carbon_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
