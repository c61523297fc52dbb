"""What a weight costs to multiply by, in seconds or joules, measured on this device."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from clisonix.compress.forms import Form
from clisonix.errors import ClisonixError
from clisonix.files import write_json
from clisonix.liam.matrix import Matrix
from clisonix.liam.tiled import tile_

SCHEMA = "clisonix.costs/2"
# Watts of a busy core, where no sensor is at hand: only ratios between forms rest on it, not on its value.
CORE_W = 5.0
ROUNDS = 7
_LEAST_S = 2e-3


class Probe(Protocol):
    """Measures what repeated calls of something cost."""

    name: str

    def __call__(self, work: Callable[[], object], calls: int) -> float:
        """The cost of one of `calls` calls of `work`."""


class WallClock:
    """Seconds of wall-clock time."""

    name = "seconds"

    def __call__(self, work: Callable[[], object], calls: int) -> float:
        _wait()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        _wait()
        return (time.perf_counter() - start) / calls


class CpuTime:
    """Joules by the time that all cores were busy, at `watts` for each: a model, where nothing measures energy."""

    name = "joules by CPU time"

    def __init__(self, watts: float = CORE_W) -> None:
        self.watts = watts

    def __call__(self, work: Callable[[], object], calls: int) -> float:
        _wait()
        start = time.process_time()
        for _ in range(calls):
            work()
        _wait()
        return self.watts * (time.process_time() - start) / calls


@dataclass
class Costs:
    """Measured costs, remembered in memory and, if wanted, in a file.

    Args:
        probe: measures seconds or joules.
        file: JSON where measurements are kept between runs; None keeps them in memory only.
        rounds: times that a form is timed, in turn with the dense weight.
    """

    probe: Probe = field(default_factory=WallClock)
    file: Path | None = None
    rounds: int = ROUNDS
    _known: dict[str, list[float]] = field(default_factory=dict, repr=False)
    _new: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.is_file():
            try:
                content: Any = json.loads(self.file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return
            # A file of another version, or a torn one, only means that things are measured again.
            if isinstance(content, dict) and content.get("schema") == SCHEMA:
                self._known.update(_pairs(content.get("costs")))

    def once(self, work: Callable[[], object]) -> float:
        """The cost of one call of `work`; not remembered."""
        return alternating(self.probe, [work], self.rounds)[0]

    def pair(
        self, key: str, device: torch.device, works: Callable[[], tuple[Callable[[], object], Callable[[], object]]]
    ) -> tuple[float, float]:
        """The costs of one call of each of two works, measured in turn.

        Args:
            key: says all that the costs depend on but probe, device and versions; what is known is not measured.
            device: where the works run.
            works: makes them.
        """
        key = " | ".join([self.probe.name, _device_name(device), torch.__version__, key])
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = alternating(self.probe, works(), self.rounds)
            self._new = True
        return self._known[key][0], self._known[key][1]

    def save(self) -> None:
        """Write what was measured to the file, if there is one."""
        if self.file is not None and self._new:
            write_json(self.file, {"schema": SCHEMA, "costs": dict(sorted(self._known.items()))})
            self._new = False


def alternating(probe: Probe, works: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """The median cost of a call of each of `works`, measured in turn, so that a busy machine disturbs all alike."""
    calls = []
    for work in works:
        work()
        start = time.perf_counter()
        work()
        _wait()
        calls.append(max(1, math.ceil(_LEAST_S / max(time.perf_counter() - start, 1e-7))))
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for index, work in enumerate(works):
            found[index].append(probe(work, calls[index]))
    return [statistics.median(values) for values in found]


def stand_in(form: Form, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Matrix:
    """A matrix of `form`, laid out as in a compressed model, with values like those of a real one.

    Products with zeros could be faster or slower.
    """
    generator = torch.Generator().manual_seed(0)
    matrix = form.empty(shape, dtype, device).requires_grad_(False)
    for name, tensor in matrix.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
        elif tensor.dtype == torch.uint8 and not name.endswith("places"):
            tensor.copy_(torch.randint(256, tensor.shape, generator=generator, dtype=torch.uint8))
    return tile_(matrix)


def user_cache(environ: Mapping[str, str], home: Path) -> Path:
    """Where a user's programs keep what they can find out again: the file of measured costs."""
    base = environ.get("XDG_CACHE_HOME") or environ.get("LOCALAPPDATA")
    return (Path(base) if base else home / ".cache") / "clisonix" / "costs.json"


def default_file() -> Path:
    """The file of measured costs of this user."""
    try:
        return user_cache(os.environ, Path.home())
    except RuntimeError as error:
        raise ClisonixError("this user has no home folder to keep measured costs in; pass costs=Costs()") from error


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.processor() or platform.machine()}"


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def _pairs(content: object) -> dict[str, list[float]]:
    """What of a file's content is pairs of positive numbers."""
    found = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(x, int | float) and x > 0 for x in value):
            found[str(key)] = [float(x) for x in value]
    return found
