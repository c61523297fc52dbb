"""A gate's word for the terminal, and as Markdown for the summary of a CI job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clisonix.files import cannot_write
from clisonix.meter.comparing.gate import Gate, Judgement
from clisonix.meter.comparing.margins import margin_text
from clisonix.meter.words import group_name, number, plain, signed

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS = ("", "verdict", "worse by", "at least", "at most", "allowed", "sees")
LEGEND = (
    "“At least” and “at most” are one-sided confidence bounds; a regression is reported when “at least” exceeds "
    "“allowed”. “Sees”: the smallest regression that these runs show in 4 of 5 cases."
)


def gate_table(found: Gate) -> Group:
    """A rich renderable: the table, the reasons, the notes, the verdict."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=escape(_title(found)), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for judgement in found.judgements:
        table.add_row(*_cells(judgement))
    lines = [f"{judgement.metric}: {judgement.reason}." for judgement in found.judgements]
    return Group(table, *map(Text, [*lines, LEGEND, *found.notes, f"gate: {found.verdict}"]))


def gate_markdown(found: Gate) -> str:
    """The same as Markdown."""
    lines = [f"### Gate: {found.verdict}", "", plain(_title(found)), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * 5]
    lines += ["| " + " | ".join(map(plain, _cells(judgement))) + " |" for judgement in found.judgements]
    said = [f"{judgement.metric}: {judgement.reason}." for judgement in found.judgements]
    lines += ["", *(f"- {plain(line)}" for line in [*said, LEGEND, *found.notes])]
    return "\n".join(lines) + "\n"


def append_summary(path: Path, found: Gate) -> None:
    """Append the Markdown to a file, as a job's step summary is written.

    Raises:
        ClisonixError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(gate_markdown(found) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def _title(found: Gate) -> str:
    return f"a: {group_name(found.a)}; b: {group_name(found.b)}"


def _cells(judgement: Judgement) -> list[str]:
    # The column "allowed" names the unit of quality; a percentage is a percentage everywhere.
    scale, sign = (1.0, "") if judgement.unit else (100.0, " %")

    def text(value: float | None) -> str:
        return "unknown" if value is None else f"{signed(scale * value)}{sign}"

    return [
        judgement.metric, judgement.verdict, text(judgement.regression), text(judgement.low), text(judgement.high),
        margin_text(judgement.metric, judgement.margin, judgement.unit),
        "unknown" if judgement.sees is None else f"{number(scale * judgement.sees)}{sign}",
    ]  # fmt: skip
