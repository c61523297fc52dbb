"""A sweep for people: a table and two sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clisonix.meter.power.sweep import Sweep, SweepPoint
from clisonix.meter.words import number, quantity, span

if TYPE_CHECKING:
    from rich.table import Table


def sweep_table(sweep: Sweep) -> Table:
    """One row for each limit; energy and time also against the highest."""
    from rich.table import Table

    table = Table(title=", ".join(f"{gpu['device']} {gpu['model']}" for gpu in sweep.gpus), title_justify="left")
    for column in ("limit", "runs", "time", "energy", "95 % interval", "mean power", "time ratio", "energy ratio"):
        table.add_column(column, justify="right")
    first = sweep.points[0]
    for point in sweep.points:
        energy = None if point.joules is None or not first.joules else point.joules / first.joules
        table.add_row(
            f"{point.limit_w:g} W",
            str(point.runs),
            quantity(point.seconds, "s"),
            quantity(point.joules, "J"),
            span(point.low, point.high, "J"),
            quantity(point.watts, "W"),
            number(point.seconds / first.seconds),
            "" if energy is None else number(energy),
        )
    return table


def sweep_sentences(sweep: Sweep) -> list[str]:
    """Which limit to take, and how sure that is."""
    optimum = sweep.optimum
    if optimum is None:
        return [f"the energy is unknown: {sweep.points[0].how}"]
    found = [f"least energy: {_told(optimum, sweep)}"]
    if sweep.as_good:
        limits = ", ".join(f"{watts:g} W" for watts in sweep.as_good)
        found.append(f"the intervals overlap with those at {limits}: measure longer (--seconds) to tell them apart")
    if sweep.max_slowdown is not None:
        within = sweep.within_slowdown
        which = "none whose energy is known" if within is None else _told(within, sweep)
        found.append(f"least energy at most {100 * sweep.max_slowdown:g} % slower: {which}")
    return found


def _told(point: SweepPoint, sweep: Sweep) -> str:
    first = sweep.points[0]
    text = f"{point.limit_w:g} W with {quantity(point.joules, 'J')} in {quantity(point.seconds, 's')}"
    if point is first or not first.joules or point.joules is None:
        return text
    energy, longer = 100 * (point.joules / first.joules - 1), 100 * (point.seconds / first.seconds - 1)
    return f"{text} ({energy:+.1f} % energy, {longer:+.1f} % time against {first.limit_w:g} W)"
