"""The command `clisonix data clocks`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

out = Console(highlight=False)


def show_clocks(
    files: Annotated[list[Path], typer.Argument(help="Recordings.")],
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the jitter of every stream into a file .svg, or .png where matplotlib is installed."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how the clocks of a recording's streams run: segments, rates, jitter, lost samples, uncertainty."""
    from clisonix.fabric.clocks.plot import draw, panels
    from clisonix.fabric.clocks.streams import clocks_of, stamps_of
    from clisonix.fabric.sources import open_source

    shown, content = [], []
    for file in files:
        source = open_source(file)
        stamps = stamps_of(source)
        clocks = clocks_of(source, stamps=stamps)
        shown += panels(clocks, stamps) if plot is not None else []
        rows = [r._asdict() for r in clocks.rows()]
        content.append({"file": file.name, "segments": rows, "notes": list(clocks.notes)})
        if as_json:
            continue
        table = Table(title=file.name, title_justify="left")
        for head in ("stream", "clock", "from s", "to s", "rate ppm", "jitter ms", "± ms", "lost"):
            table.add_column(head, justify="left" if head in ("stream", "clock") else "right")
        for row in clocks.rows():
            v = row.values
            rate = f"{v['rate_ppm']:+.2f} ± {v['rate_sd_ppm']:.2g}"
            span = (f"{v['first_s']:.3f}", f"{v['last_s']:.3f}")
            jitter = (f"{1e3 * v['residual_sd_s']:.3f}", f"{1e3 * v['offset_sd_s']:.3f}")
            table.add_row(row.stream, row.clock, *span, rate, *jitter, str(v["lost"]))
        out.print(table)
        for note in clocks.notes:
            out.print(f"  note: {note}", markup=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    if plot is not None:
        draw(shown, plot)
