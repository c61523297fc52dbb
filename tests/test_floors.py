"""Imports go down the floors of the house only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = {"errors", "files", "kernels"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "kernels": {"errors"},
    "liam": GROUND,
    "fabric": GROUND - {"kernels"},
    "meter": GROUND - {"kernels"},
    "compress": GROUND | {"liam"},
    "tide": GROUND | {"liam"},
    "models": GROUND,
    "train": GROUND | {"liam", "fabric", "meter", "compress", "models", "tide"},
}
TOP = {"cli", "cli_clocks", "cli_data", "cli_fetch", "demo", "doctor", "progress", "__init__", "__main__"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "kernels" if parts[0] == "kernels" else parts[1].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """The rooms that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        for name in names:
            head, *rest = name.split(".")
            if head in ("clisonix", "kernels") and rest:
                yield (rest[0] if head == "clisonix" else "kernels"), node.lineno


FILES = sorted([*(ROOT / "clisonix").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
FILES = [path for path in FILES if "kernels" not in path.relative_to(ROOT).parts[1:]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room in TOP:
        return
    assert room in ALLOWED, f"{path} is in no room of the design"
    for other, line in imports_of(path):
        if other == room or other == "__version__":
            continue
        assert other in ALLOWED[room], f"{path}:{line}: {room} must not import {other}"


def test_the_check_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from clisonix.train import train\n")
    assert ("train", 2) in list(imports_of(file))


def test_the_house_has_all_its_rooms() -> None:
    rooms = {room_of(path) for path in FILES}
    assert ALLOWED.keys() <= rooms
