"""Each matrix as a product of two thin ones, whose entries take a few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clisonix.tide.codecs.bits import Floats, from_short, pack, packed_bytes, to_short, unpack
from clisonix.tide.codecs.codec import Codec, need


class LowRank(Codec):
    """One power iteration from the factor sent last (PowerSGD, Vogels et al. 2019, arXiv 1905.13727).

    Tensors of two or more dimensions count as matrices with the first dimension as rows. A tensor that its factors
    would not make smaller, such as a bias, is sent whole. All entries take `bits` bits with one scale a column; 16
    means bfloat16.
    """

    ident = 6

    def __init__(self, shapes: Sequence[tuple[int, ...]], rank: int, bits: int) -> None:
        super().__init__(shapes)
        self.bits = bits
        self._layout: list[tuple[int, int, int]] = []  # rows, columns, rank; rank 0 is sent whole
        for shape in self.shapes:
            rows = shape[0] if len(shape) > 1 else 1
            columns = math.prod(shape) // rows if rows else 0
            fits = min(rank, rows, columns)
            self._layout.append((rows, columns, fits if fits * (rows + columns) < rows * columns else 0))
        start = np.random.default_rng(0)
        self._warm = [start.standard_normal((n, r), np.float32) for _, n, r in self._layout]

    def encode(self, vector: Floats) -> bytes:
        parts, at = [], 0
        for (rows, columns, rank), warm in zip(self._layout, self._warm, strict=True):
            matrix = vector[at : at + rows * columns].reshape(rows, columns)
            at += rows * columns
            if rank == 0:
                parts.append(self._pack(matrix.reshape(-1, 1)))
                continue
            left = np.linalg.qr(matrix @ warm)[0]
            sent = self._pack(left)
            parts += [sent, self._pack(matrix.T @ self._unpack(sent, rows, rank))]
        return b"".join(parts)

    def _decode(self, data: bytes) -> Floats:
        vector = np.zeros(self.size, np.float32)
        at = 0
        for left, right in self._factors(data):
            if right is None:
                vector[at : at + left.size] = left[:, 0]
                at += left.size
                continue
            part = vector[at : at + len(left) * len(right)].reshape(len(left), len(right))
            # Products and sums one after the other: a matrix product adds in an order of the machine's own.
            for index in range(left.shape[1]):
                part += left[:, index, None] * right[None, :, index]
            at += part.size
        return vector

    def absorb(self, data: bytes) -> None:
        for index, (_, right) in enumerate(self._factors(data)):
            if right is not None and right.any():
                self._warm[index] = right

    def memory(self) -> list[Floats]:
        return list(self._warm)

    def recall(self, memory: list[Floats]) -> None:
        self._warm = list(memory)

    def _factors(self, data: bytes) -> list[tuple[Floats, Floats | None]]:
        lengths = [self._bytes(m, r) + self._bytes(n, r) if r else self._bytes(m * n, 1) for m, n, r in self._layout]
        need(data, sum(lengths))
        factors: list[tuple[Floats, Floats | None]] = []
        at = 0
        for (rows, columns, rank), length in zip(self._layout, lengths, strict=True):
            part = data[at : at + length]
            at += length
            if rank == 0:
                factors.append((self._unpack(part, rows * columns, 1), None))
            else:
                cut = self._bytes(rows, rank)
                factors.append((self._unpack(part[:cut], rows, rank), self._unpack(part[cut:], columns, rank)))
        return factors

    def _bytes(self, rows: int, columns: int) -> int:
        if self.bits == 16:
            return 2 * rows * columns
        return 2 * columns + packed_bytes(self.bits, rows * columns)

    def _pack(self, matrix: np.ndarray) -> bytes:
        if self.bits == 16:
            return to_short(matrix)
        top = 2 ** (self.bits - 1) - 1
        largest = np.abs(matrix).max(0, initial=0)
        if self.bits < 8:
            # Few levels are better spent on the many than on the largest.
            spread = np.sqrt(np.square(matrix, dtype=np.float64).mean(0)) if len(matrix) else largest
            largest = np.minimum(largest, (1.0 + 0.5 * self.bits) * spread)
        scales = from_short(to_short(largest / top))
        levels = np.rint(matrix / np.where(scales > 0, scales, 1))
        return to_short(scales) + pack((np.clip(levels, -top, top) + top).astype(np.int64).reshape(-1), self.bits)

    def _unpack(self, data: bytes, rows: int, columns: int) -> Floats:
        if self.bits == 16:
            return from_short(data).reshape(rows, columns)
        codes = unpack(data[2 * columns :], self.bits, rows * columns).reshape(rows, columns)
        levels: Floats = (codes - (2 ** (self.bits - 1) - 1)).astype(np.float32)
        levels *= from_short(data[: 2 * columns])
        return levels
