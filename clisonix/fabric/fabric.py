"""The Signal Fabric: several streams, one time axis, windows with masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.buffers import Buffers
from clisonix.fabric.cursor import Cursor
from clisonix.fabric.cut import Cutter, Modality, Spent
from clisonix.fabric.order import IntArray, Plan, Ranks, Step, epoch_order
from clisonix.fabric.stream import Label, Recording, Stream  # noqa: F401 - Stream is for the example
from clisonix.fabric.window import Window, apart
from clisonix.fabric.windows import WindowTable, tabulate

__all__ = ["Modality", "SignalFabric", "Window"]

_AT_ONCE = 16  # single windows that are cut together; one at a time would cost more than the copy


class SignalFabric(IterableDataset[Window]):
    """Weaves recordings of several modalities and rates into aligned windows.

    Every modality keeps its own rate: a window holds `round(window * rate)` samples of each, starting at the
    sample nearest to the window's start. A modality whose rate differs from its stream's is resampled. What lies
    outside a stream, inside a gap, or is not a finite number is 0 with a False mask. The order is a function of
    (seed, epoch) alone. Iterating gives what is left of the current epoch; after its end the next iteration is the
    next epoch.

    Ranks share an epoch: each step takes the next `world * batch_size` windows of the order, so a cursor taken on
    any number of ranks continues on any other with nothing lost and nothing twice. All ranks have the same number of
    batches of the same size; at the end of an epoch windows of weight 0 fill up what does not divide, or, with
    `drop_last`, the windows that do not fill a step are left out.

    `Loader` makes batches in threads, ahead of time, and is what to use for speed. In a `DataLoader` use
    `batch_size=None` (batches are made here); worker `w` of `W` then makes every `W`-th batch, so the order stays the
    same. Its workers iterate copies: call `set_epoch` before each epoch; a cursor taken here does not follow them,
    one that torchdata's `StatefulDataLoader` takes there fits the same number of workers only.

    Example:
        >>> import numpy as np
        >>> eeg = Stream(np.zeros((4, 512), np.float32), rate_hz=256)
        >>> audio = Stream(np.zeros((1, 16000), np.float32), rate_hz=8000)
        >>> fabric = SignalFabric([Recording("r", {"eeg": eeg, "audio": audio})], window=1.0, hop=0.5)
        >>> [w["streams"]["audio"].shape for w in fabric]
        [torch.Size([1, 8000]), torch.Size([1, 8000]), torch.Size([1, 8000])]
    """

    def __init__(
        self,
        sources: Sequence[Recording],
        *,
        window: float,
        hop: float | None = None,
        around: Literal["events"] | None = None,
        offset: float = 0.0,
        classes: Sequence[Label] | None = None,
        modalities: Mapping[str, Modality] | None = None,
        missing: Literal["mask", "drop", "fail"] = "mask",
        batch_size: int | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Cut the windows.

        Args:
            sources: recordings; the same on every rank.
            window: length in seconds.
            hop: step between windows in seconds; None gives one window a recording.
            around: `"events"` cuts one window per event instead.
            offset: seconds from the event to the start of its window.
            classes: label values; a window's label is the index into them.
            modalities: shapes to produce, for data that may lack a modality altogether or be resampled to another
                rate; None takes what is there.
            missing: what to do with a window that lacks a modality: `mask` it, `drop` the window, or `fail`.
            batch_size: None yields single windows, a number yields batches, of that size on each rank.
            drop_last: leave out windows at the end of an epoch that do not fill a batch on every rank.
            shuffle: a new order each epoch.
            seed: of the order.
            rank: which share of each step is made here; None asks `torch.distributed`.
            world: among how many ranks.

        Raises:
            ClisonixError: nothing to cut, rates or channel counts that differ between recordings, a missing
                modality under `fail`, a batch size below 1, or a rank that does not exist.
        """
        super().__init__()
        if not sources:
            raise ClisonixError("the fabric was given no recordings")
        if batch_size is not None and batch_size < 1:
            raise ClisonixError(f"batch_size is {batch_size}, expected a positive number or None")
        if missing not in ("mask", "drop", "fail"):
            raise ClisonixError(f"missing is {missing!r}{nearest(missing, ('mask', 'drop', 'fail'))}")
        self.recordings = tuple(sources)
        self.window_s = float(window)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.seed = seed
        self.classes = None if classes is None else tuple(classes)
        self._rank, self._world = rank, world
        Ranks.find(rank, world)
        table = tabulate(
            self.recordings,
            window_s=self.window_s,
            hop_s=hop,
            around_events=around == "events",
            offset_s=offset,
            classes=classes,
        )
        self.modalities = dict(modalities) if modalities is not None else _shapes(self.recordings, self.window_s)
        for name, modality in self.modalities.items():
            if modality.samples < 1:
                raise ClisonixError(f"a window of {window:g} s holds no sample of {name} at {modality.rate_hz:g} Hz")
        self.table = self._without_missing(table, missing)
        self._cursor = Cursor()
        self._cutter: Cutter | None = Cutter(self.modalities, self.recordings)
        self._buffers: Buffers | None = Buffers()

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: views and locks stay here, and a worker cannot ask which rank it serves."""
        ranks = self.ranks
        return {**self.__dict__, "_cutter": None, "_buffers": None, "_rank": ranks.rank, "_world": ranks.world}

    def __len__(self) -> int:
        """Items of a whole epoch on each rank: windows, or batches when `batch_size` is given."""
        return len(self._plan(np.broadcast_to(np.int64(0), len(self.table)), 0))

    @property
    def ranks(self) -> Ranks:
        """Which share of each step is made here."""
        return Ranks.find(self._rank, self._world)

    @property
    def masked(self) -> dict[str, tuple[int, int]]:
        """Per modality: values that were not measured, and values in all, over the recordings."""
        counts: dict[str, tuple[int, int]] = {}
        for name in self.modalities:
            streams = [r.streams[name] for r in self.recordings if name in r.streams]
            counts[name] = (sum(s.masked for s in streams), sum(s.samples.size for s in streams))
        return counts

    def __iter__(self) -> Iterator[Window]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        start, plan = self._cursor, self.plan()
        taken = 0 if start.worker is None else start.worker[2]
        mine = range(first + taken * stride, len(plan), stride)
        at_once = _AT_ONCE if self.batch_size is None else 1
        for some in (mine[i : i + at_once] for i in range(0, len(mine), at_once)):
            steps = [plan[i] for i in some]
            for step, item in zip(steps, self.make(steps), strict=True):
                taken += 1
                if worker is None:
                    self._cursor = Cursor(start.epoch, step.end)
                else:
                    self._cursor = Cursor(start.epoch, start.position, (worker.id, worker.num_workers, taken))
                yield item
        self._cursor = Cursor(start.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration the beginning of this epoch."""
        self._cursor = Cursor(epoch)

    def order(self, epoch: int) -> IntArray:
        """The rows of `table` in the order of this epoch."""
        return epoch_order(len(self.table), seed=self.seed, epoch=epoch, shuffle=self.shuffle)

    def plan(self) -> Plan:
        """The steps that are left of the current epoch on this rank."""
        return self._plan(self.order(self._cursor.epoch), self._cursor.position)

    def make(self, steps: Sequence[Step], buffers: Buffers | None = None, spent: Spent | None = None) -> list[Window]:
        """Cut the windows of some steps together.

        Args:
            steps: of `plan`.
            buffers: where memory comes from, None for the fabric's own.
            spent: is told how long each stage took.

        Returns:
            an item for each step.
        """
        if len(steps) == 1:
            batch = self.gather(steps[0].rows, buffers, spent)
            batch["weight"] = torch.from_numpy(steps[0].weight.copy())
            return [batch] if self.batch_size is not None else apart(batch)
        batch = self.gather(np.concatenate([step.rows for step in steps]), buffers, spent)
        batch["weight"] = torch.from_numpy(np.concatenate([step.weight for step in steps]))
        return apart(batch, None if self.batch_size is None else [len(step.rows) for step in steps])

    def gather(self, rows: IntArray, buffers: Buffers | None = None, spent: Spent | None = None) -> Window:
        """Cut the windows of the given rows of `table` into one batch."""
        if self._cutter is None or self._buffers is None:
            self._cutter, self._buffers = Cutter(self.modalities, self.recordings), Buffers()
        start_s = self.table.start_s[rows]
        streams, masks = self._cutter.cut(
            self.table.recording[rows], start_s, buffers or self._buffers, spent or Spent()
        )
        return Window(
            streams=streams,
            masks=masks,
            t0_s=torch.from_numpy(start_s),
            label=torch.from_numpy(self.table.label[rows]),
            window=torch.from_numpy(np.array(rows, np.int64)),
            weight=torch.ones(len(rows)),
        )

    def state_dict(self) -> dict[str, Any]:
        """The cursor: where the next item comes from. Plain JSON, a few hundred bytes, the same on every rank."""
        return self._cursor.to_state(self._fits)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a cursor, taken on any number of ranks and with any batch size.

        Raises:
            ClisonixError: the cursor belongs to other recordings, windows or another order.
        """
        self._cursor = Cursor.from_state(state, self._fits)

    def advance(self, position: int | None) -> None:
        """Say that so many windows of the current epoch are done, for whoever iterates over `plan`; None: all."""
        epoch = self._cursor.epoch
        self._cursor = Cursor(epoch + 1) if position is None else Cursor(epoch, position)

    @property
    def _fits(self) -> dict[str, Any]:
        return {"seed": self.seed, "shuffle": self.shuffle, "table": self.table.digest}

    def _plan(self, order: IntArray, position: int) -> Plan:
        return Plan(order, position, self.batch_size or 1, self.ranks, drop_last=self.drop_last)

    def _without_missing(self, table: WindowTable, missing: str) -> WindowTable:
        if missing == "mask":
            return table
        lacking = np.array([not self.modalities.keys() <= r.streams.keys() for r in self.recordings])
        if missing == "fail" and lacking.any():
            recording = self.recordings[int(np.argmax(lacking))]
            absent = ", ".join(self.modalities.keys() - recording.streams.keys())
            raise ClisonixError(f"{recording.name} has no {absent} and missing='fail'")
        keep = ~lacking[table.recording]
        if not keep.any():
            raise ClisonixError("no recording has every modality and missing='drop'")
        return WindowTable(table.recording[keep], table.start_s[keep], table.label[keep])


def _shapes(recordings: Sequence[Recording], window_s: float) -> dict[str, Modality]:
    shapes: dict[str, Modality] = {}
    for recording in recordings:
        for name, stream in recording.streams.items():
            samples = round(window_s * stream.rate_hz)
            want = shapes.setdefault(name, Modality(len(stream.samples), stream.rate_hz, samples))
            if (len(stream.samples), stream.rate_hz) != want[:2]:
                raise ClisonixError(
                    f"{recording.name}: {name} has {len(stream.samples)} channels at {stream.rate_hz:g} Hz, "
                    f"other recordings have {want.channels} at {want.rate_hz:g} Hz; give modalities to resample"
                )
    if not shapes:
        raise ClisonixError("the recordings hold no streams")
    return shapes
