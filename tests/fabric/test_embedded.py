"""The embedded recordings are the published ones, and nothing else is ever unpickled."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clisonix.errors import ClisonixError
from clisonix.fabric import read_npz, watch_arrays, watch_file
from clisonix.fabric.embedded import _ArraysOnly


def test_shapes_are_those_of_the_study() -> None:
    arrays = watch_arrays(watch_file())
    assert arrays["X"].shape == (244102, 6)
    assert arrays["lengths"].sum() == len(arrays["X"])
    assert sorted(set(arrays["subject"].tolist())) == list(range(1, 11))
    assert arrays["y_labels"].tolist() == ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]


def test_it_equals_the_copy_of_the_data_root(data_root: Path) -> None:
    ours, theirs = watch_arrays(watch_file()), read_npz(data_root / "watch_imu/watch_imu.npz")
    assert (ours["X"] == theirs["X"]).all()
    assert (ours["y"] == theirs["y"]).all()
    assert (ours["subject"] == theirs["subject"]).all()


def test_the_package_is_not_imported() -> None:
    code = (
        "import sys; from clisonix.fabric import watch_arrays, watch_file; watch_arrays(watch_file()); "
        "assert not any(m.startswith('seglearn') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_changed_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit('ran')",)

    path = tmp_path / "watch_dataset.npy"
    np.save(path, np.array(Trap(), dtype=object), allow_pickle=True)
    with pytest.raises(ClisonixError, match="SHA-256"):
        watch_arrays(path)


def test_behind_the_hash_only_arrays_can_be_built() -> None:
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        _ArraysOnly(io.BytesIO(pickle.dumps(Path("x")))).load()
