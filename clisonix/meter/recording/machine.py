"""What this machine and its software are, for the record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def hardware(gpus: Iterable[str] = ()) -> dict[str, Any]:
    """The CPU's model, the hardware threads this process may use, and the GPUs as given by the caller."""
    return {"cpu": _cpu_model(), "cores": _usable_cores(), "gpus": list(gpus)}


def software(packages: Iterable[str] = ("clisonix", "torch", "numpy", "safetensors")) -> dict[str, str]:
    """Versions of Python, the system and the named packages that are installed."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
