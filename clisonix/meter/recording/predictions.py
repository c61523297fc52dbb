"""The test predictions of a run, `predictions.npz`: `label` (n,) and `logits` (n, classes)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError
from clisonix.meter.comparing.intervals import wilson

FILE_NAME = "predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """Labels `(n,)` and whether each was predicted correctly `(n,)`."""

    label: NDArray[np.int64]
    correct: NDArray[np.bool_]

    def accuracy(self) -> dict[str, Any]:
        """The field `quality` of a record: accuracy with its Wilson interval."""
        n, right = len(self.label), int(self.correct.sum())
        low, high = wilson(right, n)
        return {
            "metric": "accuracy", "value": right / n, "low": low, "high": high, "n": n, "higher_is_better": True,
        }  # fmt: skip


def read_predictions(path: Path) -> Predictions:
    """Read a run's predictions.

    Raises:
        ClisonixError: the file is missing, damaged, or its arrays do not fit together.
    """
    try:
        # Opened here because numpy leaves the file open when the zip is damaged.
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            label, logits = file["label"], file["logits"]
    except OSError as error:
        raise ClisonixError(f"cannot read the predictions {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever zip, numpy and json make of damaged bytes
        raise ClisonixError(f"the predictions {path} are damaged ({error}): evaluate the run again") from error
    if label.ndim != 1 or logits.ndim != 2 or len(label) != len(logits) or not len(label):
        shapes = f"{label.shape} and {logits.shape}"
        raise ClisonixError(f"the predictions {path} need label (n,) and logits (n, classes), n > 0; found {shapes}")
    # argmax would take a NaN for the largest: a sample without finite logits has no prediction, so it is wrong.
    correct = (logits.argmax(axis=1) == label) & np.isfinite(logits).all(axis=1)
    return Predictions(label.astype(np.int64), correct)
