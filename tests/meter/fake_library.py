"""Builds the stand-in for libnvidia-ml and drives it, in this process or in another."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).with_name("fake_nvml")
NAME = "libnvidia-ml.so.1"
VARIABLE = "CLISONIX_FAKE_NVML"


def compiler() -> str | None:
    """The C compiler of this machine, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the library into a folder, under the name that NVML's bindings look for.

    Beside it a program `nvidia-smi` that does nothing: CodeCarbon sees no GPU without one.
    """
    path = folder / NAME
    command = [
        str(compiler()),
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        str(path),
        *map(str, sorted(SOURCES.glob("*.c"))),
        "-lm",
    ]
    subprocess.run(command, check=True)
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return path


def configure(folder: Path, gpus: Sequence[str], origin_s: float = 0.0) -> Path:
    """Write a configuration: for each GPU the lines of its options."""
    path = folder / f"fake-{len(list(folder.glob('fake-*')))}.conf"
    path.write_text(f"origin_s {origin_s!r}\n" + "".join(f"gpu\n{options}\n" for options in gpus))
    return path


def environment(library: Path, config: Path | None) -> dict[str, str]:
    """The environment for a process that shall see the library."""
    search = os.pathsep.join([str(library.parent), os.environ.get("PATH", "")])
    found = {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "PATH": search}
    return found if config is None else {**found, VARIABLE: str(config)}


def run(program: str, library: Path, config: Path | None, *arguments: str, timeout_s: float = 60) -> str:
    """Run a Python program that sees the library; its output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment(library, config), check=False,
        capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Truth:
    """The library's own functions.

    Args:
        path: of the library; the very file that a binding has opened, to share its clock.
    """

    def __init__(self, path: Path | str) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.fake_energy_j.restype = ctypes.c_double
        self.library.fake_energy_j.argtypes = [ctypes.c_int, ctypes.c_double]
        self.library.fake_set_time.argtypes = [ctypes.c_double]
        self.library.fake_now.restype = ctypes.c_double
        self.library.fake_wall_ahead.restype = ctypes.c_double

    def joules(self, gpu: int, start_s: float, end_s: float) -> float:
        """What a GPU has truly used between two moments."""
        return float(self.library.fake_energy_j(gpu, end_s) - self.library.fake_energy_j(gpu, start_s))

    def now(self) -> float:
        """The library's clock."""
        return float(self.library.fake_now())

    def wall(self) -> float:
        """The wall clock that goes with it."""
        return float(self.library.fake_now() + self.library.fake_wall_ahead())

    def set(self, t_s: float) -> None:
        """Let the clock stand at a moment."""
        self.library.fake_set_time(t_s)


@contextmanager
def binding(library: Path, config: Path) -> Iterator[tuple[Any, Truth]]:
    """The real binding `pynvml` in this process, on a fresh copy of the library."""
    import pynvml

    with tempfile.TemporaryDirectory() as folder:
        # The dynamic linker opens one file once; a copy has a state of its own.
        copy = Path(shutil.copy(library, Path(folder) / f"fake-{config.stem}.so"))
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(config)
        pynvml.nvmlLib = ctypes.CDLL(str(copy))
        pynvml._nvmlGetFunctionPointer_cache.clear()
        try:
            yield pynvml, Truth(copy)
        finally:
            pynvml.nvmlLib = None
            pynvml._nvmlGetFunctionPointer_cache.clear()
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
