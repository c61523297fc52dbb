"""Archives of NumPy arrays in which all recordings stand end to end."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.sources.base import must_be_file
from clisonix.fabric.stream import FloatArray, Label


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy archive. Pickled objects are refused.

    Raises:
        ClisonixError: missing, damaged, or with objects inside.
    """
    must_be_file(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ClisonixError(f"{path} cannot be read as a NumPy archive ({error})") from error


def split_packed(
    arrays: dict[str, np.ndarray],
    *,
    samples: str,
    lengths: str,
    fields: Sequence[str],
) -> list[tuple[FloatArray, dict[str, Label]]]:
    """Cut recordings that were stored end to end apart again.

    Args:
        arrays: a NumPy archive.
        samples: name of the `(time, channels)` array that holds all recordings.
        lengths: name of the `(recordings,)` array of lengths.
        fields: names of `(recordings,)` arrays that say what each recording is.

    Returns:
        for each recording its `(channels, time)` samples and fields.
    """
    for name in (samples, lengths, *fields):
        if name not in arrays:
            raise ClisonixError(f"the archive has no array {name!r}{nearest(name, arrays)}")
    ends = np.cumsum(arrays[lengths])
    if len(ends) == 0 or ends[-1] != len(arrays[samples]):
        raise ClisonixError(
            f"the array {lengths!r} sums to {int(ends[-1]) if len(ends) else 0} samples, "
            f"the array {samples!r} holds {len(arrays[samples])}"
        )
    starts = np.r_[0, ends[:-1]]
    return [
        (
            np.ascontiguousarray(arrays[samples][a:b].T, np.float32),
            {name: _plain(arrays[name][i]) for name in fields},
        )
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def _plain(value: object) -> Label:
    """A NumPy scalar as the int or text that labels are compared by."""
    return int(value) if isinstance(value, np.integer) else str(value)
