"""What works on this machine, and what would make more work."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clisonix.errors import ClisonixError


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis. `ok` None: works without it, with the consequence in `found`."""

    what: str
    ok: bool | None
    found: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def diagnose(data_root: Path | None, visible: str | None) -> list[Check]:
    """Look at everything that decides how this machine trains and measures.

    Args:
        data_root: where recordings are said to be.
        visible: the text of `CUDA_VISIBLE_DEVICES`.
    """
    return [
        _torch(),
        *_gpus(),
        *_sensors(visible),
        _triton(),
        _compiler(),
        *_kernels(),
        _package("torch_sparse", "the extra `sparse`: sparse products use torch's own kernels without it"),
        _carbon(),
        _embedded(),
        _data_root(data_root),
        _disk(),
    ]


def _torch() -> Check:
    import torch

    return Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _gpus() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        return [Check("GPU", None, "none: training runs on the CPU")]
    return [Check("GPU", True, torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]


def _sensors(visible: str | None) -> list[Check]:
    from clisonix.meter import detect
    from clisonix.meter.energy import MODELLED

    sensors, missing = detect(visible)
    checks = []
    for sensor in sensors:
        modelled = sensor.source == MODELLED
        found = f"{sensor.source}: " + ("an estimate, not a measurement" if modelled else "measured")
        checks.append(Check(f"energy of {sensor.device}", None if modelled else True, found))
    checks += [Check(f"energy by {m.sensor}", None, m.reason) for m in missing]
    return checks


def _triton() -> Check:
    if importlib.util.find_spec("triton") is None:
        return Check("Triton kernels", None, "triton is not installed: products run through torch's own kernels")
    return Check("Triton kernels", True, "triton is installed; kernels are used where a call asks for them")


def _compiler() -> Check:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        return Check("C++ compiler", None, "none: `compile: true` will not work on the CPU")
    return Check("C++ compiler", True, Path(found).name)


def _kernels() -> list[Check]:
    from clisonix.kernels import cpu

    checks = []
    for name in cpu.names():
        library = cpu.load(name)
        what = f"C++ kernels {name}"
        if library.missing is not None:
            checks.append(Check(what, None, f"plain torch instead: {library.missing}"))
        else:
            checks.append(Check(what, True, f"in {library.path}"))
    return checks


def _package(module: str, otherwise: str) -> Check:
    there = importlib.util.find_spec(module) is not None
    return Check(module, True if there else None, "installed" if there else f"not installed ({otherwise})")


def _carbon() -> Check:
    from clisonix.meter import carbon_factor

    try:
        factor = carbon_factor("FRA")
    except ClisonixError as error:
        return Check("carbon factors", False, str(error))
    return Check("carbon factors", True, f"{factor.source}")


def _embedded() -> Check:
    from clisonix.fabric import watch_arrays, watch_file

    try:
        watch_arrays(watch_file())
    except ClisonixError as error:
        return Check("embedded recordings", None, str(error))
    return Check("embedded recordings", True, "140 recordings of 10 people, hash as expected")


def _data_root(root: Path | None) -> Check:
    if root is None:
        return Check("data root", None, "not set: give --data DIR or set CLISONIX_DATA for configs that read files")
    return Check("data root", root.is_dir(), str(root) if root.is_dir() else f"{root} is not a folder")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check("free disk", free > 1 << 30, f"{free / 1e9:.1f} GB here")
