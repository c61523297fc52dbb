"""A program as a piece of work that is run again and again."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence

from clisonix.errors import ClisonixError

STDERR = 2
PATIENCE_S = 3.0
"""Whoever asked this process to end will not wait for long."""


class Command:
    """Runs a program to its end each time it is called, its output on this process's standard error.

    It has a process group of its own, so that whatever it started ends with it when the call is interrupted.

    Args:
        words: the program and its arguments.

    Raises:
        ClisonixError: there are no words; when called: it cannot be started, or fails.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if not words:
            raise ClisonixError("no command was given: write it after --, e.g. -- python train.py")
        self._words = list(words)

    def __call__(self) -> None:
        """Run it once."""
        shown = shlex.join(self._words)
        try:
            # In a group of its own it may not read the terminal: it would be stopped.
            process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=STDERR, process_group=0)
        except OSError as error:
            raise ClisonixError(f"cannot start {self._words[0]}: {error.strerror or error}") from error
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        if code:
            how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
            raise ClisonixError(f"{shown!r} {how}: only work that succeeds can be compared")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
