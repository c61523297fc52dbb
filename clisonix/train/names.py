"""Which files a recipe means, and what their names say about the recordings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.fabric import Label

Key = tuple[tuple[str, Label], ...]
_E4 = ("ACC", "BVP", "EDA", "TEMP", "HR", "IBI")


def key_of(fields: Mapping[str, Label]) -> Key:
    """What is equal where fields are."""
    return tuple(sorted(fields.items()))


def matching(pattern: str, root: Path | None) -> list[Path]:
    """Files, and folders of an Empatica E4, below the data root that match a pattern; `|` is "or".

    Raises:
        ClisonixError: no data root, or nothing matches.
    """
    if root is None:
        raise ClisonixError(
            f"the config reads {pattern!r} below a data root: give --data DIR or set CLISONIX_DATA to that folder"
        )
    if not root.is_dir():
        raise ClisonixError(f"the data root {root} is not a folder")
    found = {p for part in pattern.split("|") for p in root.glob(part)}
    paths = sorted(p for p in found if p.is_file() or _is_recording(p))
    if not paths:
        raise ClisonixError(f"no file below {root} matches {pattern!r}")
    return paths


def _is_recording(folder: Path) -> bool:
    """Whether a folder holds a session of an Empatica E4, or is one of the formats that are folders."""
    return folder.suffix == ".mff" or any((folder / f"{name}.csv").is_file() for name in _E4)


def name_parser(pattern: str) -> Callable[[Path], dict[str, Label]]:
    """`{digit}_{speaker}_{take}` to a function from a path to its fields. The name is taken without its endings.

    `{subject:2}` takes two characters, `{:2}` skips two; with `{subject}/{run}` the folder of the file counts too.
    """
    folders = pattern.count("/")
    regex = ""
    for piece in re.split(r"(\{\w*(?::\d+)?\})", pattern):
        slot = re.fullmatch(r"\{(\w*)(?::(\d+))?\}", piece)
        if slot is None or piece == "{}":
            regex += re.escape(piece)
            continue
        some = f"[^/]{{{slot[2]}}}" if slot[2] else "[^/]+?"
        regex += f"(?P<{slot[1]}>{some})" if slot[1] else some
    compiled = re.compile(regex)

    def fields(path: Path) -> dict[str, Label]:
        stem = path.name.removesuffix(".gz")
        stem = stem.rpartition(".")[0] or stem
        match = compiled.fullmatch("/".join([*path.parts[len(path.parts) - 1 - folders : -1], stem]))
        if match is None:
            raise ClisonixError(f"the file name {path.name!r} does not fit the pattern {pattern!r}")
        return {k: int(v) if v.isascii() and v.isdigit() else v for k, v in match.groupdict().items()}

    return fields
