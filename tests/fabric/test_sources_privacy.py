"""Whoever was recorded does not show: not in what is inspected, nor in errors and representations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_files import SECRET, WRITERS
from secret_files import PLANTED
from typer.testing import CliRunner

from clisonix.cli_data import data_app
from clisonix.errors import ClisonixError
from clisonix.fabric.load import load
from clisonix.fabric.source import Source, to_json
from clisonix.fabric.source_text import describe
from clisonix.fabric.sources import open_source

PARTS = [part.lower() for part in (*SECRET.split("-"), SECRET)]


def check(text: str) -> None:
    for part in PARTS:
        assert part not in text.lower(), text


def planted(folder: Path, name: str) -> bool:
    """Whether the secret is in the files, packed or not: otherwise the test would prove nothing."""
    contents = [p.read_bytes() for p in folder.iterdir()]
    return any(SECRET.encode() in c for c in contents) or name == "a.zip"


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_nothing_about_the_person_shows(tmp_path: Path, name: str) -> None:
    path = PLANTED[name](tmp_path / name)
    assert planted(tmp_path, name)
    source = open_source(path)
    info = source.inspect()
    check(repr(source) + repr(info) + repr(to_json(info)) + "\n".join(describe(info)))
    check(repr(source.events()) + repr([c.stream for c in source.chunks()]))
    recording = load(source)
    check(recording.name + repr([(name, s.channels, s.unit) for name, s in recording.streams.items()]))
    for arguments in (["inspect", str(path)], ["inspect", str(path), "--json"], ["clocks", str(path), "--json"]):
        shown = CliRunner().invoke(data_app, arguments)
        assert shown.exit_code == 0
        check(shown.output)


# Not fif: MNE leaves a file that it cannot read open, for which pytest would blame us; we say one fixed sentence.
@pytest.mark.parametrize("name", sorted(PLANTED.keys() - {"a.fif"}))
def test_errors_and_notes_about_damaged_files_do_not_quote_them(tmp_path: Path, name: str) -> None:
    path = PLANTED[name](tmp_path / name)
    content = path.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(15 if name == "a.acq" else 60):
        # Shifts move the fields about the person to where others are expected.
        at, size = int(generator.integers(min(len(content), 1200))), int(generator.integers(1, 80))
        path.write_bytes(content[:at] + content[at + size :])
        check(outcome(path))


def outcome(path: Path) -> str:
    """Everything that is said when the file is read."""
    said = ""
    try:
        source: Source = open_source(path)
        info = source.inspect()
        said += "".join(info.notes)
        for _ in source.chunks():
            pass
        said += "".join(source.inspect().notes)
    except ClisonixError as error:
        said += f"{error} {error!r}"
    return said


def test_starts_are_not_shown_as_dates(tmp_path: Path) -> None:
    info = open_source(WRITERS["a.zip"](tmp_path / "a.zip")).inspect()
    assert "15602798" not in repr(to_json(info)) + "\n".join(describe(info))
