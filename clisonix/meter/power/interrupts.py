"""Signals that ask a program to end, held while something must be put right first."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""


class Interrupts:
    """Inside its block, signals that ask to end are noted; after it they do what they would have done.

    Between `may_raise` and `hold` the first one also raises `Interrupted`, once: what is done after that is never
    interrupted again. Signals that were ignored stay ignored, as `nohup` wants it. For the main thread only.

    Attributes:
        noted: the signal that came first, or None.
    """

    def __init__(self) -> None:
        self.noted: int | None = None
        self._raises = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def own(self) -> bool:
        """Whether this is the process that began the block, and no fork of it."""
        return os.getpid() == self._process

    def may_raise(self) -> None:
        """From here on a signal raises; one that came before raises now."""
        self._raises = True
        self.check()

    def check(self) -> None:
        """Raise if a signal came that somebody caught and kept to himself."""
        if self.noted is not None:
            self._raises = False
            raise Interrupted

    def hold(self) -> None:
        """From here on signals are only noted."""
        self._raises = False

    def __enter__(self) -> Interrupts:
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            before = signal.getsignal(number)
            # None: somebody who is not Python handles it.
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.noted is not None and self.own:
            # An error found while putting things right says more than the signal.
            if error is not None and not isinstance(error, KeyboardInterrupt):
                return
            signal.raise_signal(self.noted)
            raise SystemExit(128 + self.noted)  # somebody's handler that returned

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self.own:
            # A forked worker that is told to end is not the one that this block is about.
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
            return
        first = self.noted is None
        self.noted = self.noted or number
        if first and self._raises:
            self._raises = False
            raise Interrupted
