"""Shoulder exercises from a wrist IMU, read out of the installed package `seglearn`.

140 recordings of 10 healthy people doing 7 shoulder exercises with a smart watch (accelerometer and gyroscope,
50 Hz). Source: D. Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the inertial
signals from a smartwatch", Physiological Measurement 39 (2018) 075007, arXiv:1802.01489; published in seglearn
1.2.5 under the BSD licence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError

WATCH_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_INSTALL = "install it with: pip install --no-deps seglearn==1.2.5"


def watch_file() -> Path:
    """Where the installed package keeps the recordings. The package itself is not imported.

    Raises:
        ClisonixError: the package is not installed.
    """
    spec = importlib.util.find_spec("seglearn")
    if spec is None or not spec.submodule_search_locations:
        raise ClisonixError(f"the embedded recordings come with the package seglearn, which is missing; {_INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "data" / "watch_dataset.npy"


def watch_arrays(path: Path) -> dict[str, np.ndarray]:
    """The recordings, laid out as `split_packed` takes them.

    Returns:
        `X` (time, 6) float32, acceleration then angular rate, in the units of the source; `lengths`, `y` and
        `subject` (140,); `y_labels` (7,) and `x_labels` (6,).

    Raises:
        ClisonixError: the file is missing, or not byte for byte the one that was checked.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClisonixError(f"cannot read {path}: {error.strerror or error}; {_INSTALL}") from error
    # The file holds a pickle, so nothing in it is looked at before its hash is known to be right.
    if (found := hashlib.sha256(content).hexdigest()) != WATCH_SHA256:
        raise ClisonixError(f"{path} has the SHA-256 {found[:12]}…, expected {WATCH_SHA256[:12]}…; {_INSTALL}")
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    table = _ArraysOnly(file).load().item()
    return {
        "X": np.concatenate(table["X"]).astype(np.float32),
        "lengths": np.array([len(x) for x in table["X"]]),
        "y": table["y"].astype(np.int64),
        "subject": table["subject"].astype(np.int64),
        "y_labels": np.array(table["y_labels"]),
        "x_labels": np.array(table["X_labels"]),
    }


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build NumPy arrays and nothing else: a second lock behind the hash."""

    _ALLOWED = frozenset(
        {
            ("_codecs", "encode"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the base class
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")
        # NumPy 2 moved the module and warns about the old name.
        return super().find_class(module.replace("numpy.core", "numpy._core") if _NUMPY_2 else module, name)


_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
