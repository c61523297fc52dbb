"""A progress bar that shows the energy so far."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from clisonix.meter.energy import Energy
from clisonix.meter.words import quantity

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class ProgressBar:
    """Steps, time left and joules on one line; a context manager. Without a terminal it stays silent."""

    def __init__(self, console: Console, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console, self._title = console, title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[energy]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, steps: int, done: int) -> None:
        """A run of `steps` begins, or goes on after `done`."""
        self._task = self._bar.add_task(self._title, total=steps, completed=done, energy="")

    def step(self, step: int, energy: Energy) -> None:
        """`step` steps are done."""
        if self._task is not None:
            self._bar.update(self._task, completed=step, energy=_energy(energy))

    def say(self, sentence: str) -> None:
        """Something worth a line."""
        self._console.print(f"{self._title}: {sentence}", highlight=False, markup=False)


def _energy(energy: Energy) -> str:
    if energy.joules is None:
        return "energy unknown"
    return quantity(energy.joules, "J") + (" (modelled)" if "model" in energy.source else "")
