"""Raw results kept as one JSON file: parts by name, and for each under what circumstances it was measured."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clisonix.files import write_bytes
from clisonix.meter import hardware, software


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return list(os.getloadavg())


def commit() -> str | None:
    """The checkout's commit, and whether files differ from it; None outside of a checkout."""
    root = Path(__file__).parents[2]
    try:
        asked = [["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "-uno"]]
        head, changed = (
            subprocess.run(a, cwd=root, check=True, capture_output=True, text=True).stdout for a in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + (" with changes" if changed.strip() else "")


def keep(path: Path, parts: Mapping[str, Any], load_before: list[float], versions: Mapping[str, str]) -> None:
    """Write `parts` into the file, whose other parts stay.

    Args:
        path: of the JSON file, which may be new.
        parts: results by name.
        load_before: the load average before they were measured.
        versions: of what was used beside torch and numpy.
    """
    old = json.loads(path.read_text()) if path.is_file() else {}
    stamp = {
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "load_average_before": load_before,
        "load_average_after": load_average(),
        "hardware": hardware(),
        "software": {**software(("clisonix", "torch", "numpy")), **versions},
    }
    recorded = {**old.get("recorded", {}), **dict.fromkeys(parts, stamp)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps({**old, **parts, "recorded": recorded}) + "\n").encode())
