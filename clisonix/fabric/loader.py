"""Batches ahead of time, made by threads, in an order and with a cursor that threads do not change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric.buffers import Buffers
from clisonix.fabric.cut import Spent
from clisonix.fabric.fabric import SignalFabric
from clisonix.fabric.order import Plan, Step
from clisonix.fabric.window import Window

_TASK_BYTES = 16 << 20  # handed to a thread at a time: waking one costs as much as making a small batch
_AHEAD_BYTES = 16 << 20  # how far ahead threads work when nobody says: a batch should still be in a cache when used
_BUSY = 0.5  # of the time that making takes, which a consumer must spend elsewhere for threads to be of use
_ASK_AGAIN = 9  # tasks of which the median tells that: a mean would count every time another process ran
_MOST_STEPS = 64  # of one task


@dataclass
class LoaderStats:
    """What was delivered and where the time went, summed over threads.

    Attributes:
        batches: delivered.
        windows: delivered, those of weight 0 included.
        seconds: per stage. `copy`: windows into the batch; `decode`: the same from 16-bit integers, with the change
            to physical units; `resample`: the same with a change of rate; `transform`; `move`: to the device, as far
            as this process waits for it; `wait`: the consumer stood still because no batch was ready.
        asked_s: how long the consumer was in the loader between asking for a batch and having it: waiting, making
            one itself, or moving it. What the input costs a training loop, besides the cores that threads use.
    """

    batches: int = 0
    windows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    asked_s: float = 0.0

    def add(self, spent: Spent) -> None:
        """Add the stages of one task."""
        for stage, seconds in spent.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


_Made = tuple[list[Window], Spent]


@dataclass
class _Task:
    """Some steps, on their way to a thread or made by the consumer."""

    steps: list[Step]
    future: Future[_Made]
    made: _Made | None = None

    @property
    def ready(self) -> bool:
        return self.made is not None or self.future.done()


class _Pays:
    """Whether threads pay: where the consumer only takes, one that copies for itself is quicker than any thread.

    Copies are bound by memory, which threads share, and what another core has written is not in this one's cache.
    Threads pay where the consumer does something else meanwhile, or where making is more than copying.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float, float]] = deque(maxlen=_ASK_AGAIN)

    def __bool__(self) -> bool:
        if not self._seen:
            return False
        use_s, make_s, copy_s = (sorted(column)[len(column) // 2] for column in zip(*self._seen, strict=True))
        return bool(use_s > _BUSY * make_s or copy_s < 0.5 * make_s)

    @contextmanager
    def watch(self, spent: Spent) -> Iterator[None]:
        """Around the time in which the consumer has the batches of one task."""
        begin = time.perf_counter()
        yield
        copied_s = spent.seconds.get("copy", 0.0) + spent.seconds.get("decode", 0.0)
        self._seen.append((time.perf_counter() - begin, sum(spent.seconds.values()), copied_s))


class Loader:
    """Iterates a fabric with threads that write windows straight into batches, ahead of time.

    Threads suffice because copying, resampling and torch's operators let go of Python's lock; nothing is sent
    between processes. A consumer that finds no batch ready makes one that no thread has begun instead of
    waiting, so that threads add to it and never replace it; as long as it does nothing but take batches that are
    mere copies, it makes them all, because a thread could only be slower. Batches come in the fabric's order, and
    what is in them does not depend on how many threads there are.

    The cursor counts what was delivered, not what was made ahead, and is the fabric's own: it can be taken with any
    number of threads and ranks and loaded with any other.

    Memory of a batch is used again when nothing refers to it any more; a batch that is kept stays as it is.

    Example:
        >>> import numpy as np
        >>> from clisonix.fabric import Recording, SignalFabric, Stream
        >>> eeg = Stream(np.zeros((4, 2560), np.float32), rate_hz=256)
        >>> fabric = SignalFabric([Recording("r", {"eeg": eeg})], window=1.0, hop=0.5, batch_size=4, shuffle=True)
        >>> loader = Loader(fabric, threads=2)
        >>> [len(batch["label"]) for batch in loader]
        [4, 4, 4, 4, 3]
        >>> loader.state_dict()["epoch"]
        1
    """

    def __init__(
        self,
        fabric: SignalFabric,
        *,
        threads: int = 1,
        prefetch: int | None = None,
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        memory_bytes: int | None = None,
        transform: Callable[[Window], Window] | None = None,
    ) -> None:
        """Prepare; nothing is read and no thread runs before the first iteration.

        Args:
            fabric: what to iterate.
            threads: how many work ahead; 0 makes each batch when it is asked for.
            prefetch: most batches that are being made or ready at once; None allows 16 MiB of them, and at least two
                for each thread.
            device: where batches go; None leaves them in memory.
            pin_memory: make batches in page-locked memory, so that copies to a GPU do not wait; None does so for a
                CUDA device.
            memory_bytes: most memory for batches made ahead, the one delivered included.
            transform: is given each batch on its device.

        Raises:
            ClisonixError: a number that makes no sense, or a memory budget that a single batch exceeds.
        """
        if threads < 0 or (prefetch is not None and prefetch < 1):
            raise ClisonixError(f"threads is {threads} and prefetch {prefetch}: expected 0 or more, and 1 or more")
        self.fabric, self.threads, self.transform = fabric, threads, transform
        self.device = None if device is None else torch.device(device)
        on_cuda = self.device is not None and self.device.type == "cuda"
        self.stats = LoaderStats()
        self.batch_bytes = _bytes_of(fabric)
        most = max(2 * threads, _AHEAD_BYTES // self.batch_bytes) if prefetch is None else prefetch
        if memory_bytes is not None:
            if memory_bytes < self.batch_bytes * (2 if threads else 1):
                raise ClisonixError(
                    f"memory_bytes is {memory_bytes}, but {'two batches' if threads else 'a batch'} of this fabric "
                    f"take {self.batch_bytes * (2 if threads else 1)}: lower batch_size or raise the budget"
                )
            most = min(most, memory_bytes // self.batch_bytes - 1)
        self.prefetch = max(1, most)
        # No task may be so large that another thread finds nothing left to do.
        self._task = max(
            1,
            min(_TASK_BYTES // self.batch_bytes, self.prefetch // (threads + 1), len(fabric) // (4 * (threads + 1))),
        )
        self._task = min(self._task, _MOST_STEPS)
        pinned = on_cuda if pin_memory is None else pin_memory
        self._buffers = Buffers(keep=self.prefetch // self._task + 2, pinned=pinned)

    def __len__(self) -> int:
        """Items of a whole epoch on each rank."""
        return len(self.fabric)

    def __iter__(self) -> Iterator[Window]:
        asked_s = time.perf_counter()
        plan = self.fabric.plan()
        tasks = [range(i, min(i + self._task, len(plan))) for i in range(0, len(plan), self._task)]
        for steps, made in self._inline(plan, tasks) if self.threads == 0 else self._ahead(plan, tasks):
            items, spent = made
            self.stats.add(spent)
            for step, item in zip(steps, items, strict=True):
                moving = Spent()
                batch = self._on_device(item, moving)
                self.stats.add(moving)
                self.stats.batches += 1
                self.stats.windows += len(step.rows)
                self.fabric.advance(step.end)
                self.stats.asked_s += time.perf_counter() - asked_s
                yield batch
                asked_s = time.perf_counter()
        self.stats.asked_s += time.perf_counter() - asked_s
        self.fabric.advance(None)

    def state_dict(self) -> dict[str, Any]:
        """The cursor after the batch that was delivered last."""
        return self.fabric.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a cursor, taken with any number of threads and ranks.

        Raises:
            ClisonixError: the cursor belongs to other recordings, windows or another order.
        """
        self.fabric.load_state_dict(state)

    def _inline(self, plan: Plan, tasks: Sequence[range]) -> Iterator[tuple[list[Step], _Made]]:
        for task in tasks:
            steps = [plan[i] for i in task]
            yield steps, self._make(steps)

    def _ahead(self, plan: Plan, tasks: Sequence[range]) -> Iterator[tuple[list[Step], _Made]]:
        waiting: deque[_Task] = deque()
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix="fabric")
        try:
            most, begun = max(1, self.prefetch // self._task), 0
            pays = _Pays()
            while begun < len(tasks) or waiting:
                while begun < len(tasks) and len(waiting) < (most if pays else 0):
                    steps = [plan[i] for i in tasks[begun]]
                    waiting.append(_Task(steps, executor.submit(self._make, steps)))
                    begun += 1
                if not waiting:
                    steps = [plan[i] for i in tasks[begun]]
                    begun += 1
                    made = self._make(steps)
                    with pays.watch(made[1]):
                        yield steps, made
                    continue
                # Sleeping costs more than working: what no thread has begun is made here, in order.
                for task in waiting:
                    if waiting[0].ready:
                        break
                    if task.made is None and task.future.cancel():
                        task.made = self._make(task.steps)
                task = waiting.popleft()
                if task.made is None:
                    waited = Spent()
                    with waited.on("wait"):
                        task.made = task.future.result()
                    self.stats.add(waited)
                with pays.watch(task.made[1]):
                    yield task.steps, task.made
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _make(self, steps: Sequence[Step]) -> _Made:
        spent = Spent()
        items = self.fabric.make(steps, self._buffers, spent)
        if self.device is None and self.transform is not None:
            with spent.on("transform"):
                items = [self.transform(item) for item in items]
        return items, spent

    def _on_device(self, item: Window, spent: Spent) -> Window:
        if self.device is None:
            return item
        with spent.on("move"):
            item = to_device(item, self.device)
        if self.transform is not None:
            with spent.on("transform"):
                item = self.transform(item)
        return item


def to_device(window: Window, device: torch.device) -> Window:
    """A window or batch on a device; times stay, since they are float64, which some devices lack."""

    def move(x: Tensor) -> Tensor:
        if not any(x.stride()) and x.numel():  # a mask that is one True: send one, not all
            return x.as_strided((1,) * x.ndim, x.stride()).to(device, non_blocking=True).expand(x.shape)
        return x.to(device, non_blocking=True)

    moved = {
        key: {name: move(x) for name, x in value.items()}
        if isinstance(value, dict)
        else (value if key == "t0_s" else move(cast(Tensor, value)))
        for key, value in window.items()
    }
    return cast(Window, moved)


def _bytes_of(fabric: SignalFabric) -> int:
    """Memory of the samples and, at worst, the masks of one batch."""
    values = sum(m.channels * m.samples for m in fabric.modalities.values())
    return values * 5 * (fabric.batch_size or 1)
