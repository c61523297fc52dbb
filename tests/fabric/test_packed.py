"""Archives of many recordings give each of them, or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import read_npz, split_packed


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ClisonixError, match="cannot be read"):
        read_npz(tmp_path / "a.npz")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(1000))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ClisonixError, match="cannot be read"):
        read_npz(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match=r"there is no file .*gone"):
        read_npz(tmp_path / "gone.npz")


def test_packed_recordings_are_cut_apart() -> None:
    arrays = {"X": np.arange(10.0)[:, None], "n": np.array([3, 7]), "who": np.array(["a", "b"])}
    first, second = split_packed(arrays, samples="X", lengths="n", fields=["who"])
    assert first[0].tolist() == [[0, 1, 2]]
    assert second[1] == {"who": "b"}


def test_lengths_must_add_up() -> None:
    with pytest.raises(ClisonixError, match="sums to 9 samples, the array 'X' holds 10"):
        split_packed({"X": np.zeros((10, 1)), "n": np.array([3, 6])}, samples="X", lengths="n", fields=[])
