"""The `data` commands: what recordings hold, and where to get some."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clisonix.cli_clocks import show_clocks
from clisonix.cli_fetch import fetch_set, list_sets

data_app = typer.Typer(help="Look into recordings, and fetch open ones.", no_args_is_help=True)
data_app.command("list")(list_sets)
data_app.command("fetch")(fetch_set)
data_app.command("clocks")(show_clocks)
out = Console(highlight=False)


@data_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Recording: a file, a folder of an Empatica E4, a WFDB header.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a recording holds, from its headers: streams, channels, units, rates, gaps. Never who was recorded."""
    from clisonix.fabric.source import to_json
    from clisonix.fabric.source_text import describe
    from clisonix.fabric.sources import open_source

    info = open_source(file).inspect()
    if as_json:
        sys.stdout.write(json.dumps(to_json(info), indent=2) + "\n")
    else:
        for line in describe(info):
            out.print(line, markup=False, soft_wrap=True)
