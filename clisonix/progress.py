"""A progress bar that shows power and energy so far."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from clisonix.meter import Meter


class ProgressBar:
    """Steps, time left, watts and joules on one line; a context manager. Without a terminal it stays silent."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, steps: int, done: int, meter: Meter) -> None:
        """A run of `steps` begins, or goes on after `done`; `meter` measures it."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from clisonix.meter import EnergyColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            EnergyColumn(meter),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=steps, completed=done)

    def step(self, step: int) -> None:
        """`step` steps are done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def say(self, sentence: str) -> None:
        """Something worth a line."""
        self._console.print(f"{self._title}: {sentence}", highlight=False, markup=False)
