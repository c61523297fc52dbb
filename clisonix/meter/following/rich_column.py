"""Watts and joules in a progress bar of rich."""

from __future__ import annotations

import time

from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from clisonix.meter.meter import Meter

KEEP_S = 0.25


class EnergyColumn(ProgressColumn):
    """Power now and energy so far, such as `312 W 4.20 kJ`; `modelled` where a model says so, `?` where unknown.

    ```python
    with Meter() as meter, Progress(*Progress.get_default_columns(), EnergyColumn(meter)) as progress:
        ...
    ```

    It shows what the meter has sampled anyway, four times a second at most.

    Args:
        meter: whose figures.
        table_column: how rich lays the column out.
    """

    def __init__(self, meter: Meter, table_column: Column | None = None) -> None:
        super().__init__(table_column or Column(no_wrap=True))
        self._meter = meter
        self._text, self._due_s = Text(), -float("inf")

    def render(self, task: Task) -> Text:
        """The same for every task: the meter knows the machine, not the task."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            words = self._meter.live().words()
            self._text, self._due_s = Text(f"{words['power']} {words['energy']}"), now_s + KEEP_S
        return self._text
