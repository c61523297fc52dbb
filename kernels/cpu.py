"""The C++ kernels for the CPU: built with the machine's own compiler when first needed, then kept.

A library is made of `cpu/NAME.cpp` and `cpu/NAME_*.cpp`. It is kept in torch's folder for extensions, under a name
that holds a hash of its sources and of the version of torch. It is moved there whole, so that processes that build at
the same time, or die while they do, leave nothing broken. Without a compiler, or with one that fails, `load` says
why, and the operators run in plain torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# What the kernels take; they compute in float32. Everything else is left to the reference.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

SOURCES = Path(__file__).with_name("cpu")
# Linked without OpenMP: its functions come from the library that torch itself has loaded, so that there is
# one set of threads, of the size that torch.set_num_threads says.
FLAGS = ("-O3", "-Wno-psabi", "-fopenmp")


@dataclass(frozen=True)
class Library:
    """What became of a library.

    Args:
        path: the file it was loaded from, if it was.
        missing: why it was not, if it was not.
    """

    path: Path | None
    missing: str | None


_lock = threading.Lock()
_loaded: dict[str, Library] = {}


def load(name: str) -> Library:
    """Load a library into this process; if nobody has yet, build it first, which may take half a minute.

    Args:
        name: of its sources.

    Returns:
        The same answer for the life of the process, at once after the first time.
    """
    if name not in _loaded:
        with _lock:
            if name not in _loaded:
                _loaded[name] = _find(name)
    return _loaded[name]


def names() -> list[str]:
    """The libraries that there are sources for."""
    return sorted({file.stem.partition("_")[0] for file in SOURCES.glob("*.cpp")})


def library(name: str) -> ctypes.CDLL | None:
    """The functions of the library `name`, or None where `load` says why there is none."""
    path = load(name).path
    return None if path is None else ctypes.CDLL(str(path))


def _find(name: str) -> Library:
    try:
        # Brings setuptools along, so not before it is needed.
        from torch.utils import cpp_extension

        # The variable is torch's own, read where torch reads it.
        root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
        sources = sorted(SOURCES.glob(f"{name}.cpp")) + sorted(SOURCES.glob(f"{name}_*.cpp"))
        kept = root / f"clisonix_{name}_{_key(sources)}.so"
        if not kept.exists():
            with _ninja_on_path():
                reason = _without_tools(_compiler(), cpp_extension.is_ninja_available())
                if reason is not None:
                    return Library(None, reason)
                root.mkdir(parents=True, exist_ok=True)
                with _alone(kept.with_suffix(".lock")):
                    if not kept.exists():
                        return _build(f"clisonix_{name}", sources, kept)
        torch.ops.load_library(str(kept))  # type: ignore[no-untyped-call]
    except (ImportError, OSError) as error:
        return Library(None, f"the library could not be loaded: {' '.join(str(error).split())}")
    return Library(kept, None)


def _key(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for part in (torch.__version__, platform.machine(), *platform.libc_ver(), *FLAGS):
        digest.update(part.encode() + b"\0")
    files = list(sources)
    for file in files:
        text = file.read_bytes()
        digest.update(text)
        included = (SOURCES / name.decode() for name in re.findall(rb'#include "(\w+\.h)"', text))
        files += [header for header in included if header not in files]
    return digest.hexdigest()[:16]


def _without_tools(compiler: str, ninja: bool) -> str | None:
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler `{compiler}`; install g++, or name another in the variable CXX"
    if not ninja:
        return "there is no ninja; install it, for instance with `pip install ninja`"
    return None


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Where torch looks for ninja, put the one that is installed beside torch: a Python that is called by its path,
    without activating its environment, has the package but not the program."""
    before = os.environ.get("PATH", "")
    try:
        import ninja
    except ImportError:
        yield
        return
    os.environ["PATH"] = os.pathsep.join([before, str(ninja.BIN_DIR)])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _compiler() -> str:
    from torch.utils import cpp_extension

    return str(cpp_extension.get_cxx_compiler())  # type: ignore[no-untyped-call]


def _build(name: str, sources: list[Path], kept: Path) -> Library:
    from torch.utils import cpp_extension

    # A compiler that failed once is not asked again, but a newer one, or another, is.
    version = subprocess.run([_compiler(), "--version"], capture_output=True, check=False, timeout=60)
    failure = kept.with_suffix(f".{hashlib.sha256(version.stdout).hexdigest()[:8]}.failed")
    if failure.exists():
        return Library(None, failure.read_text())
    logging.getLogger(__name__).info("building kernels for the CPU, once, into %s", kept)
    with tempfile.TemporaryDirectory(prefix=name, dir=kept.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cpp_extension.load(
                name,
                [str(source) for source in sources],
                extra_cflags=list(FLAGS),
                build_directory=folder,
                with_cuda=False,
                is_python_module=False,
            )
        except (RuntimeError, subprocess.SubprocessError) as error:
            reason = f"the compiler failed ({_first_error(str(error))}); delete {failure} to try again"
            failure.write_text(reason)
            return Library(None, reason)
        # It stays loaded under its new name.
        (built,) = Path(folder).glob("*.so")
        built.replace(kept)
    return Library(kept, None)


def _first_error(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower() and "Error building" not in line), lines[-1])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `path` against other processes. The system lets go of it when a process dies."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
