"""Memory of weaving a recording far larger than it, with a dead stream and one that runs ahead.

    python scripts/bench/fabric_memory.py --json

Resident memory of a process of its own, above what it had once everything was imported. The target is the budget and
64 MiB. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).parents[2] / "tests" / "fabric" / "memory_child.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--budget-mib", type=float, default=64.0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    command = [sys.executable, str(CHILD), str(given.gigabytes * 1e9), str(given.budget_mib * 2**20)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
