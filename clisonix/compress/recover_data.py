"""Batches for recovery: what to train on, and what to judge by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from clisonix.compress.batches import check_batches
from clisonix.errors import ClisonixError

# Of every list one batch in ten is held out; of a stream, whose length is not known, the first few.
ONE_IN, FIRST = 10, 4
NO_BATCHES = "the data gave no batches; a generator can be walked only once, so give a list"


class Batches:
    """An endless supply of training batches, and some that are held out.

    A list is shuffled anew for each pass, by the seed; the last tenth of it is held out. Any other iterable is
    walked as it is, again and again, without its first few batches, which are held out; an iterator, which can
    be walked only once, ends. A single batch is both trained on and judged by.

    Args:
        data: batches as calibration takes them.
        held_out: batches to judge by; then none of `data` is held out.
        seed: of the shuffling.

    Raises:
        ClisonixError: no iterable of batches, or an empty one.
    """

    def __init__(self, data: Iterable[Any], held_out: Iterable[Any] | None, seed: int) -> None:
        check_batches(data)
        self._generator = torch.Generator().manual_seed(seed)
        self._data: Iterable[Any] = data
        self._skip = 0
        self._once: Iterator[Any] | None = None
        if held_out is not None:
            check_batches(held_out)
            self.held_out = list(held_out)
        elif isinstance(data, Sequence):
            kept = max(min(-(-len(data) // ONE_IN), len(data) - 1), 0)
            self._data = data[: len(data) - kept]
            self.held_out = list(data[len(data) - kept :]) if kept else list(data)
        else:
            walk = iter(data)
            self.held_out = list(itertools.islice(walk, FIRST))
            self._skip = len(self.held_out)
            self._once = walk if walk is data else None
        if not self.held_out or (isinstance(self._data, Sequence) and not len(self._data)):
            raise ClisonixError(NO_BATCHES)

    def __iter__(self) -> Iterator[Any]:
        if self._once is not None:
            yield from self._once
            return
        while True:
            seen = 0
            for batch in self._one_pass():
                seen += 1
                yield batch
            if not seen:
                if not self._skip:
                    return
                # So short that all of it was held out: better trained on than not used at all.
                self._skip = 0

    def _one_pass(self) -> Iterator[Any]:
        if isinstance(self._data, Sequence):
            order = torch.randperm(len(self._data), generator=self._generator).tolist()
            return (self._data[index] for index in order)
        return itertools.islice(self._data, self._skip, None)


def first_batches(data: Iterable[Any], memory: int) -> list[Any]:
    """The first batches of `data`, at least one, as many as fit into so many bytes.

    Raises:
        ClisonixError: no iterable of batches, or an empty one.
    """
    check_batches(data)
    kept: list[Any] = []
    held = 0
    for batch in data:
        held += sum(tensor.nbytes for tensor in tree_flatten(batch)[0] if isinstance(tensor, Tensor))
        if kept and held > memory:
            break
        kept.append(batch)
    if not kept:
        raise ClisonixError(NO_BATCHES)
    return kept
