"""Which windows come when, and which of them on which rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clisonix.errors import ClisonixError

IntArray = npt.NDArray[np.int64]


def epoch_order(windows: int, *, seed: int, epoch: int, shuffle: bool) -> IntArray:
    """The rows of a window table in the order of one epoch: a function of these arguments and nothing else."""
    if not shuffle:
        return np.arange(windows)
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(windows)


@dataclass(frozen=True)
class Ranks:
    """One of several processes that share an epoch.

    Attributes:
        rank: which one.
        world: of how many.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def find(cls, rank: int | None, world: int | None) -> Ranks:
        """What was given, else what `torch.distributed` says, else one process.

        Raises:
            ClisonixError: only one of the two was given, or they do not fit.
        """
        if (rank is None) != (world is None):
            raise ClisonixError("rank and world were not given together: give both or neither")
        if rank is not None and world is not None:
            if not 0 <= rank < world:
                raise ClisonixError(f"rank is {rank} of {world}, expected 0 to {world - 1}")
            return cls(rank, world)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls()


@dataclass(frozen=True)
class Step:
    """What one rank makes in one step.

    Attributes:
        rows: `(batch,)` rows of the window table.
        weight: `(batch,)` float32, 0 for a window that only fills up, else 1.
        end: windows of the epoch that are done, on all ranks together, once this step is.
    """

    rows: IntArray
    weight: npt.NDArray[np.float32]
    end: int


class Plan:
    """The steps of the rest of an epoch on one rank.

    A step takes the next `world * size` windows of the order, rank after rank, so that what is done after a step is
    always a beginning of the order, whatever the number of ranks. Every rank has the same number of steps and
    batches of the same size. If fewer windows are left than a whole step takes they are dealt out evenly, and ranks
    that would get one fewer repeat one with weight 0; with `drop_last` they are left out.
    """

    def __init__(self, order: IntArray, position: int, size: int, ranks: Ranks, *, drop_last: bool) -> None:
        """Plan from `position` on.

        Args:
            order: the whole epoch.
            position: windows that are done.
            size: windows of one batch on one rank.
            ranks: which share is this process's.
            drop_last: leave out what does not fill a step.
        """
        self._order, self._position, self._size, self._ranks = order, min(position, len(order)), size, ranks
        whole, rest = divmod(len(order) - self._position, size * ranks.world)
        self._steps = whole + (rest > 0 and not drop_last)
        self._full = np.ones(size, np.float32)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Step:
        rank, world, size = self._ranks.rank, self._ranks.world, self._size
        first = self._position + step * world * size
        left = len(self._order) - first
        if left >= world * size:
            mine = first + rank * size
            rows = self._order[mine : mine + size]
            return Step(rows, self._full, first + world * size)
        share = -(-left // world)
        dealt = rank * share + np.arange(share)
        return Step(self._order[first + dealt % left], np.less(dealt, left).astype(np.float32), len(self._order))
