"""Memory for batches, used again once nobody holds the batch."""

from __future__ import annotations

import sys
import threading

import numpy as np
import torch
from torch import Tensor

from clisonix.fabric.stream import FloatArray

_PROBE = [np.empty(0)]
_FREE = sys.getrefcount(_PROBE[0])  # what a list and an argument make; counted, since Pythons differ


class Buffers:
    """Arrays that batches are written into, and the tensors that show them.

    Fresh memory costs a page fault every 4 KiB, which is as much time as the copy itself. A tensor made from a NumPy
    array holds a reference to it for as long as any view of its storage lives, so an array without references is
    free to be written again. Page-locked memory is kept by torch, which also knows when copies out of it have ended.
    """

    def __init__(self, keep: int = 4, *, pinned: bool = False) -> None:
        """Begin empty.

        Args:
            keep: arrays of one shape that are kept for use again.
            pinned: page-locked memory, for copies to a GPU that do not wait.
        """
        self.keep, self.pinned = keep, pinned
        self._kept: dict[tuple[str, tuple[int, ...]], list[FloatArray]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, shape: tuple[int, ...]) -> tuple[FloatArray, Tensor]:
        """An array of this shape, its contents whatever they were, and the tensor on the same memory."""
        if self.pinned:
            tensor = torch.empty(shape, pin_memory=True)
            return tensor.numpy(), tensor
        with self._lock:
            kept = self._kept.setdefault((name, shape), [])
            for i in range(len(kept)):
                if sys.getrefcount(kept[i]) == _FREE:
                    return kept[i], torch.from_numpy(kept[i])
            array = np.empty(shape, np.float32)
            if len(kept) < self.keep:
                kept.append(array)
            return array, torch.from_numpy(array)
