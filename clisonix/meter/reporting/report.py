"""A run's report: one HTML file that asks the network for nothing, or Markdown."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from clisonix.meter.recording.record import read_record
from clisonix.meter.reporting.report_charts import learning_chart, power_chart
from clisonix.meter.reporting.report_view import view
from clisonix.meter.words import plain


def render_html(folder: Path) -> str:
    """The report of a run as a self-contained page.

    Args:
        folder: a run's folder; only `record.json` must be there.

    Raises:
        ClisonixError: the record is missing or damaged.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("clisonix.meter.reporting").joinpath("report.html").read_text(encoding="utf-8")
    )
    record = read_record(folder)
    return template.render(**view(record), power=power_chart(folder, record), learning=learning_chart(folder, record))


def render_markdown(folder: Path) -> str:
    """The report of a run as Markdown, without charts; see `render_html`."""
    shown = view(read_record(folder))
    lines = [f"# {plain(shown['name'])}", ""]
    lines += [plain(line) for line in (shown["task"], shown["when"]) if line]
    lines += ["", "| | | |", "|---|---|---|"]
    lines += [f"| {plain(t['label'])} | **{plain(t['value'])}** | {plain(t['note'])} |" for t in shown["tiles"]]
    lines += ["", "## Energy", "", "| window | energy | 95 % interval | how |", "|---|---|---|---|"]
    for row in shown["energy"]:
        lines.append(f"| {plain(row['name'])} | {row['value']} | {row['interval'] or 'none'} | {plain(row['how'])} |")
    lines += ["", "## Carbon", "", "| | CO₂-equivalent | range | source |", "|---|---|---|---|"]
    for row in shown["carbon"]:
        cells = (row["name"], row["value"], row["range"] or "none", row["text"])
        lines.append("| " + " | ".join(map(plain, cells)) + " |")
    for title, rows in (
        ("How each figure was obtained", [f"{what}: {how}" for what, how in shown["obtained"]]),
        ("Parts", shown["parts"]),
        ("Attempts", shown["attempts"]),
        ("Notes", shown["notes"]),
        ("Machine and software", [f"{key}: {value}" for key, value in shown["facts"]]),
    ):
        if rows:
            lines += ["", f"## {title}", "", *(f"- {plain(row)}" for row in rows)]
    return "\n".join(lines) + "\n"
