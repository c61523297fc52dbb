"""Read damaged recordings of every format: errors by type, most memory, slowest. Prints one JSON line.

Usage: python scripts/bench/fabric_fuzz.py [files of each format] [seed]
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fabric"))

from fuzz import fuzz
from sample_files import WRITERS


def main() -> None:
    """Fuzz every format, and fail if anything but a `ClisonixError` came out."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("error")
    found = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            outcome = fuzz(name, count, Path(folder) / name.replace(".", "_"), seed)
            found[name] = {
                "outcomes": dict(outcome.counts),
                "most_mb": round(outcome.most_bytes / 1e6, 2),
                "slowest_s": round(outcome.slowest_s, 3),
                "failures": outcome.failures[:5],
            }
    total = {
        "files": count * len(found),
        "failures": sum(len(entry["failures"]) for entry in found.values()),
        "slowest_s": max(entry["slowest_s"] for entry in found.values()),
        "most_mb": max(entry["most_mb"] for entry in found.values()),
        "resident_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(json.dumps({"files_each": count, "seed": seed, "total": total, "formats": found}))
    sys.exit(1 if any(entry["failures"] for entry in found.values()) else 0)


if __name__ == "__main__":
    main()
