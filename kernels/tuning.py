"""Which of several ways to compute one thing is fastest on this machine: measured once, kept in a file.

Ways to compute one thing sum in different orders, so their results differ in the last bits. A choice, once made,
holds for the process and for later processes that find the file. Under `torch.use_deterministic_algorithms(True)`,
which training sets, nothing is measured or looked up: the first way is taken, and results depend on no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

# Another way must be this much faster than the first to be preferred: differences below are mostly noise.
MARGIN = 0.9
ROUNDS = 3
FILE = "choices.json"

Ways = Mapping[str, Callable[[], object]]


def cache_folder(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path | None:
    """Where this user's programs keep what they can make again, or None where there is no home to keep it in.

    Args:
        environment: `XDG_CACHE_HOME` is followed on any system; else `LOCALAPPDATA` on Windows.
        platform: as `sys.platform`.
    """
    given = Path(environment.get("XDG_CACHE_HOME", ""))
    # The XDG standard says that a relative path is to be ignored.
    if given.is_absolute():
        return given / "clisonix"
    if platform == "win32" and environment.get("LOCALAPPDATA"):
        return Path(environment["LOCALAPPDATA"]) / "clisonix" / "cache"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "clisonix"


class Choices:
    """What was measured before, by key.

    Args:
        folder: where to keep it; None keeps it in memory only. A file that cannot be read or written is ignored: the
            worst that follows is that something is measured again.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / FILE if folder else None
        self._known: dict[str, str] | None = None

    def get(self, key: str) -> str | None:
        """The name of the way chosen for `key` earlier."""
        if self._known is None:
            self._known = self._read()
        return self._known.get(key)

    def put(self, key: str, name: str) -> None:
        """Keep a choice, beside those that other processes have kept meanwhile."""
        self._known = {**self._read(), **(self._known or {}), key: name}
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent)
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(self._known, file, indent=1, sort_keys=True)
                os.replace(temporary, self.path)
            except OSError:
                os.unlink(temporary)
                raise

    def _read(self) -> dict[str, str]:
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: name for key, name in found.items() if isinstance(name, str)}


@cache
def user_choices() -> Choices:
    """The choices kept in the user's cache folder."""
    return Choices(cache_folder())


def choose(key: str, ways: Ways, device: torch.device, choices: Choices | None = None) -> str:
    """The name of the fastest of `ways` for problems like `key`, measured now if it never was.

    Args:
        key: says all that the speed depends on, in coarse steps; the device, the versions and the names of the ways
            are added.
        ways: name to a call that does the work once; the first is the one to prefer. A way that raises
            `RuntimeError` is out.
        device: where the work is done.
        choices: what is known; the user's unless given.
    """
    names = list(ways)
    if len(names) == 1 or torch.are_deterministic_algorithms_enabled() or _is_capturing(device):
        return names[0]
    choices = choices or user_choices()
    key = f"{key} of {','.join(names)} on {_describe(device)}"
    known = choices.get(key)
    if known is not None and known in ways:
        return known
    found = fastest(ways, device)
    choices.put(key, found)
    return found


def fastest(ways: Ways, device: torch.device) -> str:
    """The name of the way that takes the least time, taking turns so that all meet the same machine."""
    seconds: dict[str, float] = {}
    for turn in range(ROUNDS + 1):
        for name, work in ways.items():
            if turn > 0 and seconds.get(name) is None:
                continue
            try:
                spent = _time(work, device)
            except RuntimeError:
                seconds.pop(name, None)
                continue
            # The first turn warms up, and tells who need not run again; it does not count.
            seconds[name] = spent if turn <= 1 else min(spent, seconds[name])
        if turn == 0 and seconds:
            best = min(seconds.values())
            seconds = {name: spent for name, spent in seconds.items() if spent <= 4 * best}
    first = next(iter(ways))
    if not seconds:
        return first
    winner = min(seconds, key=seconds.__getitem__)
    return first if seconds.get(first, float("inf")) * MARGIN <= seconds[winner] else winner


def _time(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{device.type} {_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "of unknown kind"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "of unknown kind")
