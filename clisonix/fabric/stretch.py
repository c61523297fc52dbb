"""A stretch of a stream in physical units, written where it is wanted."""

from __future__ import annotations

import numpy as np

from clisonix.fabric.stream import BoolArray, FloatArray, Stream

Unit = np.float32 | FloatArray | None
Units = tuple[Unit, Unit]


def stretch(stream: Stream, begin: int, into: FloatArray) -> BoolArray | None:
    """Copy `[begin, begin + samples)` as far as the stream has it; the mask, or None where all of it was measured."""
    samples = into.shape[1]
    low, high = max(begin, 0), min(begin + samples, stream.length)
    if low >= high:
        return np.zeros(into.shape, np.bool_)
    there = into if high - low == samples else into[:, low - begin : high - begin]
    there[...] = stream.samples[:, low:high]
    if stream.samples.dtype == np.int16:
        to_units(stream, there)
    gappy = stream.gaps.between(low, high)
    if not gappy and high - low == samples:
        return None
    measured = np.zeros(into.shape, np.bool_)
    measured[:, low - begin : high - begin] = stream.measured(low, high) if gappy else True
    return measured


def units_of(stream: Stream) -> Units | None:
    """Scale and offset of stored integers; None for what changes nothing, numbers where all channels share them."""
    if stream.samples.dtype != np.int16:
        return None
    scale, offset = _shared(stream.scale, 1.0), _shared(stream.offset, 0.0)
    return None if scale is None and offset is None else (scale, offset)


def apply_units(x: FloatArray, scale: Unit, offset: Unit) -> None:
    """Turn stored integers into physical units where they lie."""
    if scale is not None:
        x *= scale
    if offset is not None:
        x += offset


def to_units(stream: Stream, x: FloatArray) -> None:
    """The same for a stream, which need not hold integers."""
    units = units_of(stream)
    if units is not None:
        apply_units(x, *units)


def _shared(value: float | FloatArray, nothing: float) -> Unit:
    """A number where one will do: that is several times quicker than a column of them."""
    values = np.atleast_1d(np.asarray(value, np.float32))
    if np.all(values == values[0]):
        return None if values[0] == nothing else np.float32(values[0])
    return values[:, None]
