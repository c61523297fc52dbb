"""The commands `clisonix data list` and `clisonix data fetch`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.fabric.datasets import Dataset
    from clisonix.fabric.fetch import Fetched

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_sets(as_json: Json = False) -> None:
    """Show open sets of recordings that can be fetched, with size, licence and source. Reaches no network."""
    from clisonix.fabric.datasets import datasets

    if as_json:
        sets = {
            d.name: {
                "title": d.title,
                "files": d.files,
                "bytes_about": d.bytes_about,
                "licence": d.licence,
                "source": d.source,
                "credit": d.credit,
                "config": d.config,
                "subset": list(d.choices),
            }
            for d in datasets()
        }
        sys.stdout.write(json.dumps(sets, indent=2) + "\n")
        return
    for d in datasets():
        choices = f"; choose by {', '.join(d.choices)}" if d.choices else ""
        out.print(f"{d.name}: {d.title}", markup=False, soft_wrap=True)
        out.print(
            f"  about {_megabytes(d.bytes_about)}, {d.licence}, {d.source}{choices}", markup=False, soft_wrap=True
        )


def fetch_set(
    name: Annotated[str, typer.Argument(help="A name that `clisonix data list` shows.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Data root: files go into DIR/NAME.", envvar="CLISONIX_DATA", show_envvar=True, metavar="DIR"
        ),
    ] = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="FIELD=VALUES, e.g. subject=0-19 or run=4,8,12. Repeat for more fields.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 4,
    as_json: Json = False,
) -> None:
    """Fetch an open set of recordings; checked by hash, and taken up again where an earlier try ended."""
    from clisonix.fabric.datasets import dataset
    from clisonix.fabric.fetch import fetch

    chosen = dataset(name)
    fields = _fields(subset or ())
    files, size = chosen.expect(chosen.select(fields))
    if to is None:
        raise ClisonixError(
            f"where shall {name} go: give --to DIR, or set CLISONIX_DATA to your folder of recordings"
        )
    if files == 0:
        raise ClisonixError(f"no file of {name} fits {' '.join(subset or ())}")
    for line in (
        chosen.title,
        f"licence: {chosen.licence}",
        f"source:  {chosen.source}",
        f"cite:    {chosen.credit}",
        f"size:    about {_megabytes(size)} to download" + (f" in {files} files" if files else ""),
        f"folder:  {to / name}",
    ):
        err.print(line, markup=False, soft_wrap=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ClisonixError("nobody is there to answer; --yes agrees to the download and the licence")
        if not typer.confirm("Download?", err=True):
            raise typer.Exit(1)
    with _Progress(size) as progress:
        done = fetch(chosen, to, subset=fields, jobs=jobs, arrived=progress)
    _tell(chosen, done, to, as_json)


def _tell(chosen: Dataset, done: Fetched, root: Path, as_json: bool) -> None:
    if as_json:
        result = {
            "folder": str(done.folder),
            "arrived": done.arrived,
            "kept": done.kept,
            "notes": done.notes,
            "config": chosen.config,
        }
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for note in done.notes:
        err.print(f"{chosen.name}: {note}", markup=False, soft_wrap=True)
    counts = f"{done.arrived} files arrived, {done.kept} were there, all checked"
    out.print(f"{done.folder}: {counts}", markup=False, soft_wrap=True)
    if chosen.config is not None:
        out.print(f"train on it: clisonix train {chosen.config} --data {root}", markup=False, soft_wrap=True)


def _fields(subset: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in subset:
        name, _, values = part.partition("=")
        if not name or not values:
            raise ClisonixError(f"--subset {part!r} is not FIELD=VALUES, such as subject=0-19")
        if name in fields:
            raise ClisonixError(
                f"--subset names {name} twice: put its values into one, {name}={fields[name]},{values}"
            )
        fields[name] = values
    return fields


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class _Progress:
    """Bytes on one line; silent without a terminal."""

    def __init__(self, about: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._bar.add_task("", total=about)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, count: int) -> None:
        self._bar.update(self._task, advance=count)
