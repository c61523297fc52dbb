"""Every entry sent: as float32, as bfloat16, as a sign, or as one of three values."""

from __future__ import annotations

import numpy as np

from clisonix.tide.codecs.bits import Floats, from_short, to_short
from clisonix.tide.codecs.codec import Codec, chunked, need

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


class Dense(Codec):
    """Float32 as it is."""

    ident = 1

    def encode(self, vector: Floats) -> bytes:
        return vector.astype("<f4").tobytes()

    def _decode(self, data: bytes) -> Floats:
        need(data, 4 * self.size)
        return np.frombuffer(data, "<f4").astype(np.float32)


class Short(Codec):
    """Bfloat16, rounded to nearest."""

    ident = 2

    def encode(self, vector: Floats) -> bytes:
        return to_short(vector)

    def _decode(self, data: bytes) -> Floats:
        need(data, 2 * self.size)
        return from_short(data)


class Binary(Codec):
    """The sign of each entry and the mean size of each chunk: 1 bit an entry (Bernstein et al., signSGD, 2018)."""

    ident = 3

    def encode(self, vector: Floats) -> bytes:
        rows = chunked(vector)
        counts = np.minimum(rows.shape[1], self.size - np.arange(len(rows)) * rows.shape[1])
        scales = np.abs(rows).sum(1, dtype=np.float64) / np.maximum(counts, 1)
        return to_short(scales) + np.packbits(vector >= 0).tobytes()

    def _decode(self, data: bytes) -> Floats:
        rows = len(chunked(np.empty(self.size, np.float32)))
        need(data, 2 * rows + -(-self.size // 8))
        signs = np.unpackbits(np.frombuffer(data, np.uint8, offset=2 * rows), count=self.size)
        return _scaled(signs.astype(np.float32) * 2 - 1, from_short(data[: 2 * rows]))


class Ternary(Codec):
    """Plus, minus or nothing, times one size for each chunk: 1.6 bits an entry, five to a byte.

    Threshold and size as in Li et al., "Ternary weight networks", 2016.
    """

    ident = 4

    def encode(self, vector: Floats) -> bytes:
        rows = chunked(vector)
        sizes = np.abs(rows)
        kept = sizes > 0.7 * sizes.mean(1, keepdims=True)
        scales = (sizes * kept).sum(1) / np.maximum(kept.sum(1), 1)
        trits = (np.sign(rows) * kept).astype(np.int8).reshape(-1)[: self.size] + 1
        padded = np.zeros(-(-self.size // 5) * 5, np.uint8)
        padded[: self.size] = trits
        packed = np.asarray((padded.reshape(-1, 5) * _POWERS).sum(1, dtype=np.uint8))
        return b"".join((to_short(scales), packed.tobytes()))

    def _decode(self, data: bytes) -> Floats:
        rows = len(chunked(np.empty(self.size, np.float32)))
        need(data, 2 * rows + -(-self.size // 5))
        packed = np.frombuffer(data, np.uint8, offset=2 * rows)
        if (packed > 242).any():
            raise ValueError("a byte holds five trits and is below 243")
        trits = (packed[:, None] // _POWERS % 3).reshape(-1)[: self.size]
        return _scaled(trits.astype(np.float32) - 1, from_short(data[: 2 * rows]))


def _scaled(units: Floats, scales: Floats) -> Floats:
    rows = chunked(units)
    return (rows * scales[:, None]).reshape(-1)[: len(units)]
