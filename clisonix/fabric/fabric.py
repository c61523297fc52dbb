"""The Signal Fabric: several streams, one time axis, windows with masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from clisonix.errors import ClisonixError, nearest
from clisonix.fabric.stream import Label, Recording, Stream  # noqa: F401 - Stream is for the example
from clisonix.fabric.windows import WindowTable, tabulate


class Modality(NamedTuple):
    """What a window holds of one modality."""

    channels: int
    rate_hz: float
    samples: int


class Window(TypedDict):
    """One window, or a batch of them with a leading batch dimension.

    `streams[m]` is `(channels, time)` float32 with 0 where nothing was measured, `masks[m]` is the same shape,
    True where a value was measured. `t0_s` is the start on the recording's clock, `label` the class index or
    -1, `window` the row of the window table (provenance: `fabric.table`).
    """

    streams: dict[str, Tensor]
    masks: dict[str, Tensor]
    t0_s: Tensor
    label: Tensor
    window: Tensor


class SignalFabric(IterableDataset[Window]):
    """Weaves recordings of several modalities and rates into aligned windows.

    Every modality keeps its own rate: a window holds `round(window * rate)` samples of each, starting at the
    sample nearest to the window's start. What lies outside a stream, inside a gap, or is not a finite number is
    0 with a False mask. The order is a function of (seed, epoch) alone. Iterating gives what is left of the
    current epoch; after its end the next iteration is the next epoch.

    In a `DataLoader` use `batch_size=None` (batches are made here); worker `w` of `W` then makes every `W`-th
    batch, so the order stays the same. Workers iterate copies: call `set_epoch` before each epoch, and checkpoint
    with `num_workers=0`, since `state_dict` follows the iteration in this process only.

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
    ) -> None:
        """Cut the windows.

        Args:
            sources: recordings.
            window: length in seconds.
            hop: step between windows in seconds; None gives one window a recording.
            around: `"events"` cuts one window per event instead.
            offset: seconds from the event to the start of its window.
            classes: label values; a window's label is the index into them.
            modalities: shapes to produce, for data that may lack a modality altogether; None takes what is there.
            missing: what to do with a window that lacks a modality: `mask` it, `drop` the window, or `fail`.
            batch_size: None yields single windows, a number yields batches.
            drop_last: leave out a last batch that is not full.
            shuffle: a new order each epoch.
            seed: of the order.

        Raises:
            ClisonixError: nothing to cut, rates or channel counts that differ between recordings, a missing
                modality under `fail`, or a batch size below 1.
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
        _check_shapes(self.recordings, self.modalities)
        self.table = self._without_missing(table, missing)
        self._epoch = 0
        self._position = 0

    def __len__(self) -> int:
        """Items per epoch: windows, or batches when `batch_size` is given."""
        if self.batch_size is None:
            return len(self.table)
        whole, rest = divmod(len(self.table), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

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
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order = self.order(self._epoch)
        size = self.batch_size or 1
        for item in range(self._position + first, len(self), step):
            rows = order[item * size : (item + 1) * size]
            self._position = item + 1
            batch = self.gather(rows)
            yield batch if self.batch_size is not None else _single(batch)
        self._epoch, self._position = self._epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration the beginning of this epoch."""
        self._epoch, self._position = epoch, 0

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The rows of `table` in the order of this epoch."""
        if not self.shuffle:
            return np.arange(len(self.table))
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], np.uint64)))
        return generator.permutation(len(self.table))

    def gather(self, rows: npt.NDArray[np.int64]) -> Window:
        """Cut the windows of the given rows of `table` into one batch."""
        streams: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, (channels, rate_hz, samples) in self.modalities.items():
            values = np.zeros((len(rows), channels, samples), np.float32)
            measured = np.zeros(values.shape, np.bool_)
            for i, row in enumerate(rows):
                stream = self.recordings[self.table.recording[row]].streams.get(name)
                if stream is None:
                    continue
                begin = round((float(self.table.start_s[row]) - stream.start_s) * rate_hz)
                low, high = max(begin, 0), min(begin + samples, stream.length)
                if low >= high:
                    continue
                cells = slice(low - begin, high - begin)
                values[i, :, cells] = stream.samples[:, low:high]
                measured[i, :, cells] = True if stream.valid is None else stream.valid[:, low:high]
            if not measured.all():
                values[~measured] = 0.0  # NaN times 0 is NaN, so a mask alone would not protect a model
            streams[name], masks[name] = torch.from_numpy(values), torch.from_numpy(measured)
        return Window(
            streams=streams,
            masks=masks,
            t0_s=torch.from_numpy(self.table.start_s[rows]),
            label=torch.from_numpy(self.table.label[rows]),
            window=torch.from_numpy(np.asarray(rows, np.int64)),
        )

    def state_dict(self) -> dict[str, Any]:
        """The cursor: where the next item comes from. Plain JSON, a few hundred bytes."""
        return {
            "schema": 1,
            "epoch": self._epoch,
            "position": self._position,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "batch_size": self.batch_size,
            "table": self.table.digest(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a cursor.

        Raises:
            ClisonixError: the cursor belongs to other recordings, windows, batches or another order.
        """
        mine = self.state_dict()
        for key in ("schema", "seed", "shuffle", "batch_size", "table"):
            if state.get(key) != mine[key]:
                what = "the recordings or windows have changed" if key == "table" else f"{key} differs"
                raise ClisonixError(f"the stream cursor does not fit this fabric: {what}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

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
            shapes.setdefault(name, Modality(len(stream.samples), stream.rate_hz, samples))
    if not shapes:
        raise ClisonixError("the recordings hold no streams")
    return shapes


def _check_shapes(recordings: Sequence[Recording], modalities: Mapping[str, Modality]) -> None:
    for recording in recordings:
        for name, stream in recording.streams.items():
            if name not in modalities:
                continue
            want = modalities[name]
            if (len(stream.samples), stream.rate_hz) != want[:2]:
                raise ClisonixError(
                    f"{recording.name}: {name} has {len(stream.samples)} channels at {stream.rate_hz:g} Hz, "
                    f"other recordings have {want.channels} at {want.rate_hz:g} Hz"
                )


def _single(batch: Window) -> Window:
    return Window(
        streams={name: x[0] for name, x in batch["streams"].items()},
        masks={name: x[0] for name, x in batch["masks"].items()},
        t0_s=batch["t0_s"][0],
        label=batch["label"][0],
        window=batch["window"][0],
    )
