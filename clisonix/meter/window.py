"""A named stretch of time that is being measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from clisonix.errors import ClisonixError
from clisonix.meter.energy import Energy
from clisonix.meter.spans import Span

if TYPE_CHECKING:
    from types import TracebackType

    from clisonix.meter.recorder import Recorder


class Window:
    """One opening of a window; a context manager that is used once.

    Attributes:
        name: `/` separates levels.
        start_s: seconds on the meter's clock; None before it opens.
        end_s: likewise; None until it closes.
        cancelled: whether it counts for nothing.
    """

    __slots__ = ("_recorder", "_sync", "cancelled", "end_s", "name", "start_s")

    def __init__(self, recorder: Recorder, name: str, sync: bool = False) -> None:
        self.name, self._recorder, self._sync = name, recorder, sync
        self.start_s: float | None = None
        self.end_s: float | None = None
        self.cancelled = False

    def __enter__(self) -> Window:
        if self.start_s is not None:
            raise ClisonixError(f"the window {self.name!r} was opened before: call `window` again for each opening")
        if self._sync:
            synchronise()
        self._recorder.opens(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sync and error is None:
            synchronise()
        self._recorder.closes(self)

    def cancel(self) -> None:
        """Let the window count for nothing, as if it had never been opened; the time stays in windows around it."""
        self.cancelled = True

    @property
    def seconds(self) -> float | None:
        """Duration in seconds once it is closed, else None."""
        return None if self.start_s is None or self.end_s is None else self.end_s - self.start_s

    def energy(self) -> Energy:
        """The best figure of each device for this one opening, summed; of an open window, so far."""
        if self.start_s is None:
            raise ClisonixError(f"the window {self.name!r} has not been opened: use it in a `with` statement")
        trace = self._recorder.trace()
        last_s = trace.last_s if self.end_s is None else self.end_s
        return trace.energy_during([Span(self.name, self.start_s, max(self.start_s, last_s))])


def synchronise() -> None:
    """Wait until every CUDA device of this process has done its work; nothing where CUDA is not in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
