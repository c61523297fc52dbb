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
from clisonix.fabric.resample import Resampler, resampler
from clisonix.fabric.stream import BoolArray, FloatArray, Recording, Stream

# Where everything was measured one True stands for all of it.
_TOGETHER = 32_768  # inputs that are resampled together: what lies in a cache
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

    def __init__(self, name: str, modality: Modality, recordings: Sequence[Recording]) -> None:
        """Look at shapes and rates; no sample is read.

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
        # A length of 0 sends windows of absent and resampled streams the long way.
        plain = [s is not None and r is None for s, r in zip(streams, self._resamplers, strict=True)]
        self._length = np.array([s.length if s and p else 0 for s, p in zip(streams, plain, strict=True)])
        self._views = [
            _windows(s, modality.samples) if s and p else None for s, p in zip(streams, plain, strict=True)
        ]
        self._integer = [s is not None and s.samples.dtype == np.int16 for s in streams]
        self._known = False
        self._scratch = Buffers()
        spans = [(0, 0) if r is None else r.span(0, modality.samples) for r in self._resamplers]
        self._inputs = [
            _windows(s, high - low) if s and high > low else None
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
        rows, begins, views = recording.tolist(), begin.tolist(), self._views
        if everywhere:
            # The one loop that everything waits for.
            for i, r in enumerate(rows):
                values[i] = views[r][begins[i]]
            if self._sound:
                return tensor, _ALL.expand(values.shape)
        mask: BoolArray | None = None
        later: list[int] = []
        for i, (r, b) in enumerate(zip(rows, begins, strict=True)):
            stream, row = self._streams[r], values[i]
            if everywhere or inside[i]:
                assert stream is not None
                if not everywhere:
                    row[...] = views[r][b]
                measured = stream.measured(b, b + samples) if stream.gaps.between(b, b + samples) else None
                if self._integer[r]:
                    _to_units(stream, row)
            elif self._resamplers[r] is not None:
                later.append(i)
                continue
            elif stream is None:
                measured = np.zeros(row.shape, np.bool_)
            else:
                measured = _stretch(stream, b, row)
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
        """Whether no stream has a gap or needs a change of units, as far as is known; True stays True."""
        if not self._known:
            self._known = all(
                s is None or (s.gaps.whole and (not i or _is_plain(s)))
                for s, i in zip(self._streams, self._integer, strict=True)
            )
        return self._known

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
                            _to_units(stream, part)
                        continue
                    measured = _stretch(stream, first, part)
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
        self._tracks = [Track(name, modality, recordings) for name, modality in modalities.items()]

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


def _windows(stream: Stream, samples: int) -> FloatArray | None:
    """`(starts, channels, samples)`: every window of a stream, as a view. An index is quicker than a slice."""
    if stream.length < samples:
        return None
    plain = np.asarray(stream.samples)  # indexing a memmap goes through Python code, its plain view does not
    view: FloatArray = np.lib.stride_tricks.sliding_window_view(plain, samples, axis=1).swapaxes(0, 1)
    return view


def _stretch(stream: Stream, begin: int, into: FloatArray) -> BoolArray | None:
    """Copy `[begin, begin + samples)` as far as the stream has it; the mask, or None where all of it was measured."""
    samples = into.shape[1]
    low, high = max(begin, 0), min(begin + samples, stream.length)
    if low >= high:
        return np.zeros(into.shape, np.bool_)
    there = into if high - low == samples else into[:, low - begin : high - begin]
    there[...] = stream.samples[:, low:high]
    if stream.samples.dtype == np.int16:
        _to_units(stream, there)
    gappy = stream.gaps.between(low, high)
    if not gappy and high - low == samples:
        return None
    measured = np.zeros(into.shape, np.bool_)
    measured[:, low - begin : high - begin] = stream.measured(low, high) if gappy else True
    return measured


def _is_plain(stream: Stream) -> bool:
    """Whether stored values are physical units already."""
    return bool(np.all(np.asarray(stream.scale) == 1.0) and np.all(np.asarray(stream.offset) == 0.0))


def _to_units(stream: Stream, x: FloatArray) -> None:
    """Turn stored integers into physical units where they lie."""
    scale, offset = stream.scale, stream.offset
    if np.ndim(scale):
        x *= np.asarray(scale, np.float32)[:, None]
    elif scale != 1.0:
        x *= np.float32(scale)
    if np.ndim(offset):
        x += np.asarray(offset, np.float32)[:, None]
    elif offset != 0.0:
        x += np.float32(offset)
