"""A comparison as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clisonix.meter.comparing.compare import Comparison, Row
from clisonix.meter.words import group_name, quantity, signed

if TYPE_CHECKING:
    from rich.console import Group


def comparison_table(comparison: Comparison) -> Group:
    """A rich renderable: the table, how each interval was obtained, equivalence, runs needed, notes."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    title = f"a: {group_name(comparison.a)}; b: {group_name(comparison.b)}"
    table = Table(title=escape(title), title_justify="left")
    for column in ("", "a", "b", "b / a", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for row in comparison.rows:
        table.add_row(row.metric, _value(row, row.a), _value(row, row.b), *_change(row))
    lines = [Text(f"{row.metric}: {row.interval}") for row in comparison.rows]
    energy = comparison.row("energy")
    hows = {"a and b": energy.how_a} if energy.how_a == energy.how_b else {"a": energy.how_a, "b": energy.how_b}
    lines += [Text(f"energy of {side}: {how}") for side, how in hows.items()]
    lines += [Text(row.equivalence.text) for row in comparison.rows if row.equivalence]
    if len(comparison.a) + len(comparison.b) > 2:
        lines += [Text(row.needed.text) for row in comparison.rows if row.needed and row.metric != "size"]
    return Group(table, *lines, *(Text(note) for note in comparison.notes))


def _value(row: Row, value: float | None) -> str:
    return quantity(value, "%" if row.unit == "points" else row.unit)


def _change(row: Row) -> tuple[str, str]:
    if row.metric == "quality":
        value, low, high = row.difference, row.difference_low, row.difference_high
        unit = f" {row.unit}"
        text = "unknown" if value is None else signed(value) + unit
        return text, "none" if low is None or high is None else f"{signed(low)} to {signed(high)}{unit}"
    text = "unknown" if row.ratio is None else f"{row.ratio:.3g}"
    if row.ratio_low is None or row.ratio_high is None:
        return text, "none"
    return text, "exact" if row.ratio_low == row.ratio_high else f"{row.ratio_low:.3g} to {row.ratio_high:.3g}"
