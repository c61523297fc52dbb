"""Run the benchmarks of the fabric, each in a process of its own, and keep what they say in one record.

    python scripts/bench/fabric_record.py --data DIR [--parts throughput clocks ...]

What was not run stays in the record as it was, with the circumstances it was measured under.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from raw_record import keep, load_average

HERE = Path(__file__).parent
PARTS = {
    "throughput": ["fabric.py", "--json"],
    "clocks": ["fabric_clocks.py", "--json"],
    "memory": ["fabric_memory.py", "--json"],
    "live": ["fabric_lsl.py", "--seconds", "600", "--json"],
    "fuzz": ["fabric_fuzz.py", "1819"],
    "kills": ["fabric_kill.py", "--json"],
}
PEERS = ("pyxdf", "pylsl", "wfdb", "pyedflib", "soundfile", "braindecode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CLISONIX_DATA"), help="folder of recordings, for clocks")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs/results/fabric.json")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args()
    if "clocks" in given.parts and given.data is None:
        parser.error("clocks needs --data DIR or CLISONIX_DATA")
    versions = {name: version(name) for name in PEERS if importlib.util.find_spec(name)}
    for part in given.parts:
        script, *more = PARTS[part]
        if part == "clocks":
            more += ["--data", given.data]
        before = load_average()
        done = subprocess.run(
            [sys.executable, str(HERE / script), *more], stdout=subprocess.PIPE, text=True, check=part != "fuzz"
        )
        keep(given.out, {part: json.loads(done.stdout)}, before, versions)
        print(f"{part}: kept")


if __name__ == "__main__":
    main()
