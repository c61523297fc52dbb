"""Files that are either whole or not there: atomic writes and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from torch import Tensor


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` fill a temporary file beside `path`, then move it into place.

    A reader sees the old file or the whole new one, never a part; after a failure nothing is left behind.

    Args:
        path: where the file shall be.
        writer: called with the temporary path; must create that file.

    Raises:
        ClisonixError: the disk is full, or the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; see `write_atomic`."""
    write_atomic(path, lambda temporary: _write_all(temporary, content))


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    """Write `content` as indented JSON to `path` atomically. NaN and infinity are refused: they are not JSON."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append one line of JSON for each of `lines`, and see that they reach the disk.

    They are written in one go at the end of the file, whoever else appends to it; a line that a crash tore before
    is ended first, so that it does not spoil the next one. NaN and infinity are refused.

    Raises:
        ClisonixError: the disk is full, or the file cannot be written.
    """
    content = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: one call of the system for all.
        with path.open("ab+", buffering=0) as file:
            if file.tell() and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                content = b"\n" + content
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can say
    """Read a JSON file.

    Raises:
        ClisonixError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ClisonixError(f"{path} is not valid JSON ({error}); it may be truncated") from error


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, for use inside `write_atomic`.

    Raises:
        OSError: with the system's own code, which the library hides in a sentence.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else 0
        raise OSError(number, os.strerror(number) if code else str(error)) from error


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> ClisonixError:
    """The sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ClisonixError(f"the disk is full: {path} was not written and what was there before is unchanged")
    return ClisonixError(f"cannot write {path}: {error.strerror or error}")


def _write_all(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
