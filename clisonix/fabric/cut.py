"""Cut windows out of streams, straight into the memory of a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.fabric.buffers import Buffers
from clisonix.fabric.order import IntArray
from clisonix.fabric.records import Records, RecordWindows
from clisonix.fabric.resample import Resampler, resampler
from clisonix.fabric.resampled import keep
from clisonix.fabric.stream import BoolArray, FloatArray, Int16Array, Recording, Samples, Stream
from clisonix.fabric.stretch import apply_units, stretch, to_units, units_of

# Where everything was measured one True stands for all of it.
_TOGETHER = 32_768  # inputs that are resampled together: what lies in a cache
_KEPT_BYTES = 64 << 20  # of outputs of resampling, over all streams of a fabric
_ALL = torch.ones((1, 1, 1), dtype=torch.bool)


class Modality(NamedTuple):
    """What a window holds of one modality."""

    channels: int
    rate_hz: float
    samples: int


class Spent:
    """Seconds per stage of the making of batches."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count what happens inside as `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Track:
    """One modality of all recordings, ready to be cut into windows."""

    def __init__(self, name: str, modality: Modality, recordings: Sequence[Recording], keep_bytes: int) -> None:
        """Look at shapes and rates; no sample is read.

        Args:
            name: of the modality.
            modality: its shape.
            recordings: what to cut.
            keep_bytes: how much memory outputs of resampling may be kept in.

        Raises:
            ClisonixError: a channel count that differs, or a rate that no resampling leads from.
        """
        self.name, self.modality = name, modality
        streams = [r.streams.get(name) for r in recordings]
        for recording, stream in zip(recordings, streams, strict=True):
            if stream is not None and len(stream.samples) != modality.channels:
                raise ClisonixError(
                    f"{recording.name}: {name} has {len(stream.samples)} channels, expected {modality.channels}"
                )
        self._streams = streams
        self._start_s = np.array([0.0 if s is None else s.start_s for s in streams])
        self._resamplers = [_between(s, modality) for s in streams]
        changed = [(s, r) if s and r else None for s, r in zip(streams, self._resamplers, strict=True)]
        self._kept, kept_length = keep(changed, keep_bytes)
        self.kept_bytes = sum(k.values.nbytes for k in self._kept if k)
        self._keeps = self._making = any(k is not None for k in self._kept)
        # A length of 0 sends windows of absent streams, and of those resampled each time, the long way.
        plain = [s is not None and r is None for s, r in zip(streams, self._resamplers, strict=True)]
        self._length = np.array([s.length if s and p else 0 for s, p in zip(streams, plain, strict=True)])
        self._length += kept_length
        stored = [
            k.values if k else s.samples if s and p else None
            for s, p, k in zip(streams, plain, self._kept, strict=True)
        ]
        self._views = [None if x is None else _windows(x, modality.samples) for x in stored]
        # Outputs that are kept are in physical units already.
        self._units = [units_of(s) if s and p else None for s, p in zip(streams, plain, strict=True)]
        self._integer = [s is not None and s.samples.dtype == np.int16 for s in streams]
        self._known = False
        self._scratch = Buffers()
        spans = [(0, 0) if r is None else r.span(0, modality.samples) for r in self._resamplers]
        self._inputs = [
            _windows(s.samples, high - low) if s and high > low else None
            for s, (low, high) in zip(streams, spans, strict=True)
        ]
        self.stage = "resample" if any(self._resamplers) else "copy"
        if any(self._integer) and self.stage == "copy":
            self.stage = "decode"

    def cut(self, recording: IntArray, start_s: npt.NDArray[np.float64], buffers: Buffers) -> tuple[Tensor, Tensor]:
        """Windows and their masks, both `(batch, channels, samples)`.

        Args:
            recording: `(batch,)` which recording.
            start_s: `(batch,)` from when on, on the recording's clock.
            buffers: where memory comes from.
        """
        channels, rate_hz, samples = self.modality
        values, tensor = buffers.take(self.name, (len(recording), channels, samples))
        begin = np.rint((start_s - self._start_s[recording]) * rate_hz).astype(np.int64)
        inside = (begin >= 0) & (begin + samples <= self._length[recording])
        everywhere = bool(inside.all())
        rows, begins, views, units = recording.tolist(), begin.tolist(), self._views, self._units
        if self._making:
            self._prepare(rows, begins, inside)
        if everywhere:
            # The one loop that everything waits for.
            for i, r in enumerate(rows):
                values[i] = views[r][begins[i]]
                if units[r] is not None:
                    apply_units(values[i], *units[r])
            if self._sound:
                return tensor, self._mask_of_kept(rows, begins, values.shape)
        mask: BoolArray | None = None
        later: list[int] = []
        for i, (r, b) in enumerate(zip(rows, begins, strict=True)):
            stream, row = self._streams[r], values[i]
            if everywhere or inside[i]:
                assert stream is not None
                kept = self._kept[r]
                if not everywhere:
                    row[...] = views[r][b]
                    if units[r] is not None:
                        apply_units(row, *units[r])
                if kept is not None:
                    measured = kept.trusted(b, b + samples)
                    if measured.all():
                        continue
                    if mask is None:
                        mask = np.ones(values.shape, np.bool_)
                    mask[i] = measured
                    continue
                measured = stream.measured(b, b + samples) if stream.gaps.between(b, b + samples) else None
            elif self._resamplers[r] is not None:
                later.append(i)
                continue
            elif stream is None:
                measured = np.zeros(row.shape, np.bool_)
            else:
                measured = stretch(stream, b, row)
            if measured is not None:
                # NaN times 0 is NaN, so a mask alone would not protect a model.
                np.copyto(row, 0.0, where=~measured)
                if mask is None:
                    mask = np.ones(values.shape, np.bool_)
                mask[i] = measured
        if later:
            mask = self._resample(later, rows, begin, values, mask)
        if mask is not None:
            return tensor, torch.from_numpy(mask)
        return tensor, _ALL.expand(values.shape)

    @property
    def _sound(self) -> bool:
        """Whether streams have no gap or are kept, as far as is known; True stays True."""
        if not self._known:
            self._known = all(
                s is None or (k.complete if k else s.gaps.whole)
                for s, k in zip(self._streams, self._kept, strict=True)
            )
        return self._known

    def _mask_of_kept(self, rows: list[int], begins: list[int], shape: tuple[int, ...]) -> Tensor:
        mask: BoolArray | None = None
        for i, (r, b) in enumerate(zip(rows, begins, strict=True)) if self._keeps else ():
            kept = self._kept[r]
            if kept is not None and not kept.sure(b, b + shape[-1]):
                if mask is None:
                    mask = np.ones(shape, np.bool_)
                mask[i] = kept.trusted(b, b + shape[-1])
        return _ALL.expand(shape) if mask is None else torch.from_numpy(mask)

    def _prepare(self, rows: list[int], begins: list[int], inside: BoolArray) -> None:
        """Make the kept outputs that these windows need."""
        for r, b, i in zip(rows, begins, inside.tolist(), strict=True):
            kept = self._kept[r]
            if i and kept is not None and not kept.complete:
                kept.prepare(b, b + self.modality.samples, self._scratch)
        self._making = any(k is not None and not k.complete for k in self._kept)

    def _resample(
        self, which: list[int], recording: list[int], begin: IntArray, values: FloatArray, mask: BoolArray | None
    ) -> BoolArray | None:
        """Write the windows `which`, whose streams have another rate; the mask of the batch so far and of these."""
        channels, samples = values.shape[1:]
        by_ratio: dict[Resampler, list[int]] = {}
        for i in which:
            through = self._resamplers[recording[i]]
            assert through is not None
            by_ratio.setdefault(through, []).append(i)
        for through, rows in by_ratio.items():
            low, high = through.span(0, samples)
            together = max(1, _TOGETHER // (channels * (high - low)))
            for some in (rows[i : i + together] for i in range(0, len(rows), together)):
                x, _ = self._scratch.take("inputs", (len(some), channels, high - low))
                begins = begin[some]
                missing: list[tuple[int, BoolArray]] = []
                lows = through.lows(begins).tolist()
                for i, b, first, part in zip(some, begins.tolist(), lows, x, strict=True):
                    r = recording[i]
                    stream, view = self._streams[r], self._inputs[r]
                    assert stream is not None
                    if view is not None and 0 <= first < len(view) and stream.gaps.whole:
                        part[...] = view[first]
                        if self._integer[r]:
                            to_units(stream, part)
                        continue
                    measured = stretch(stream, first, part)
                    if measured is not None:
                        np.copyto(part, 0.0, where=~measured)
                        missing.append((i, through.trusted(b, measured, samples)))
                if some[-1] - some[0] == len(some) - 1:
                    through.outputs(begins, x, values[some[0] : some[-1] + 1], self._scratch)
                else:
                    y = np.empty((len(some), channels, samples), np.float32)
                    through.outputs(begins, x, y, self._scratch)
                    values[some] = y
                for i, trusted in missing:
                    np.copyto(values[i], 0.0, where=~trusted)
                    if mask is None:
                        mask = np.ones(values.shape, np.bool_)
                    mask[i] = trusted
        return mask


class Cutter:
    """All modalities of all recordings."""

    def __init__(self, modalities: Mapping[str, Modality], recordings: Sequence[Recording]) -> None:
        self._tracks: list[Track] = []
        left = _KEPT_BYTES
        for name, modality in modalities.items():
            self._tracks.append(Track(name, modality, recordings, left))
            left -= self._tracks[-1].kept_bytes

    def cut(
        self, recording: IntArray, start_s: npt.NDArray[np.float64], buffers: Buffers, spent: Spent
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams and masks of a batch, see `Track.cut`."""
        streams: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for track in self._tracks:
            with spent.on(track.stage):
                streams[track.name], masks[track.name] = track.cut(recording, start_s, buffers)
        return streams, masks


def _between(stream: Stream | None, modality: Modality) -> Resampler | None:
    if stream is None or stream.rate_hz == modality.rate_hz:
        return None
    return resampler(stream.rate_hz, modality.rate_hz)


def _windows(samples: Samples, length: int) -> FloatArray | Int16Array | RecordWindows | None:
    """`(starts, channels, length)`: every window of a stream, as a view. An index is quicker than a slice."""
    if samples.shape[1] < length:
        return None
    if isinstance(samples, Records):
        return samples.windows(length)
    plain = np.asarray(samples)  # indexing a memmap goes through Python code, its plain view does not
    view: FloatArray = np.lib.stride_tricks.sliding_window_view(plain, length, axis=1).swapaxes(0, 1)
    return view
