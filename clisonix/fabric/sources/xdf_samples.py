"""The samples inside an XDF frame: stamps and values, without trusting any count."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from clisonix.fabric.source import Float64Array
from clisonix.fabric.sources.xdf_frames import varlen
from clisonix.fabric.sources.xdf_header import DTYPES, Header
from clisonix.fabric.stream import FloatArray

_PIECE = 1 << 22
_LONGEST_TEXT = 1 << 20
Read = Callable[[int, int], bytes]


class Decoder:
    """Decodes the frames of one stream in order; unstamped samples count on from the last stamp."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._step_s = 0.0 if header.rate_hz is None else 1.0 / header.rate_hz
        self._last_s = 0.0
        self.unstamped_first = False
        self._fresh = True
        self.end = 0
        self.whole = True

    def numbers(self, read: Read, begin: int, length: int) -> Iterator[tuple[FloatArray, Float64Array]]:
        """Samples `(channels, time)` with their stamps, in pieces.

        After the last piece `end` is the byte behind the last whole sample, and `whole` says whether the frame held
        as many samples as it claims, no more and no less.
        """
        dtype = np.dtype(DTYPES[self._header.format])
        row = dtype.itemsize * len(self._header.channels)
        left, at = self._count(read, begin, length)
        stop = begin + length
        size = max(_PIECE, row + 9)
        while left > 0 and at < stop:
            content = read(at, min(size, stop - at))
            rows, stamps, used = self._rows(content, row, left)
            if used == 0:
                break
            at, left = at + used, left - len(stamps)
            values = np.ascontiguousarray(rows).view(dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                yield np.ascontiguousarray(values.T, np.float32), stamps
        self.end, self.whole = at, left == 0 and at == stop

    def texts(self, read: Read, begin: int, length: int) -> Iterator[tuple[float, str | int]]:
        """Time and label of each event of a marker frame; several channels are joined by commas."""
        left, at = self._count(read, begin, length)
        stop = begin + length
        if self._header.format != "string":
            for values, stamps in self.numbers(read, begin, length):
                exact = values.astype(np.int64)
                yield from zip(stamps.tolist(), exact[0].tolist(), strict=True)
            return
        content, base = b"", at
        while left > 0 and at < stop:
            sample = self._text(content, at - base)
            if sample is None:
                if at > base or len(content) < min(_PIECE, stop - at):
                    content, base = read(at, min(_PIECE, stop - at)), at
                    sample = self._text(content, 0)
                if sample is None:
                    break
            time_s, label, used = sample
            self._last_s, self._fresh = time_s, False
            at, left = at + used, left - 1
            yield time_s, label
        self.end, self.whole = at, left == 0 and at == stop

    def _count(self, read: Read, begin: int, length: int) -> tuple[int, int]:
        found = varlen(read(begin, min(9, max(length, 0))), 0)
        return (0, begin) if found is None else (found[0], begin + found[1])

    def _rows(self, content: bytes, row: int, most: int) -> tuple[npt.NDArray[np.uint8], Float64Array, int]:
        """Whole samples at the start of `content`: their values `(time, row)`, their stamps, the bytes they take."""
        view = np.frombuffer(content, np.uint8)
        # Writers stamp every sample, or the first of a frame only, or none: then samples are of one size.
        lead = 1 if content[:1] == b"\x08" and content[9 + row : 10 + row] == b"\0" and most > 1 else 0
        begin, flag = lead * (9 + row), content[lead * (9 + row)] if content else 255
        stride = 1 + flag + row
        possible = min(most - lead, (len(content) - begin) // stride)
        if (
            flag in (0, 8)
            and possible > 0
            and (view[begin : begin + (possible - 1) * stride + 1 : stride] == flag).all()
        ):
            table = view[begin : begin + possible * stride].reshape(possible, stride)
            cells = table[:, 1:9] if flag else np.zeros((0, 8), np.uint8)
            values = table[:, 1 + flag :]
            stamped = np.full(lead + possible, flag == 8)
            if lead:
                stamped[0], cells = True, view[None, 1:9]
                values = np.concatenate((view[None, 9:begin], values))
            return values, self._stamps(cells, stamped), begin + possible * stride
        starts: list[int] = []
        at, end = 0, len(content)
        while len(starts) < most and at < end and (flag := content[at]) in (0, 8) and at + 1 + flag + row <= end:
            starts.append(at)
            at += 1 + flag + row
        heads = np.array(starts, np.int64)
        flags = view[heads]
        cells = view[(heads + 1)[flags == 8, None] + np.arange(8)]
        values = view[(heads + 1 + flags)[:, None] + np.arange(row)]
        return values, self._stamps(cells, flags == 8), at

    def _stamps(self, cells: npt.NDArray[np.uint8], stamped: npt.NDArray[np.bool_]) -> Float64Array:
        """Stamps of samples, those without one counted on; `cells` are the bytes of those that have one."""
        known = np.flatnonzero(stamped)
        given: Float64Array = np.ascontiguousarray(cells).view("<f8")[:, 0].astype(np.float64)
        if len(known) < len(stamped):
            since = np.searchsorted(known, np.arange(len(stamped)), side="right")
            base = np.concatenate(([self._last_s], given if len(known) else np.zeros(0)))
            origin = np.concatenate(([-1], known))
            self.unstamped_first |= self._fresh and not stamped[0]
            given = base[since] + self._step_s * (np.arange(len(stamped)) - origin[since])
        if len(given):
            self._last_s, self._fresh = float(given[-1]), False
        return given

    def _text(self, content: bytes, at: int) -> tuple[float, str, int] | None:
        """One sample of text and the bytes it takes; None if it is not whole, or not one."""
        begin = at
        if at >= len(content) or content[at] not in (0, 8):
            return None
        if content[at] == 8:
            if at + 9 > len(content):
                return None
            time_s = float(struct.unpack_from("<d", content, at + 1)[0])
            at += 9
        else:
            self.unstamped_first |= self._fresh
            time_s = self._last_s + self._step_s
            at += 1
        words = []
        for _ in self._header.channels:
            found = varlen(content, at)
            if found is None or found[0] > _LONGEST_TEXT or found[1] + found[0] > len(content):
                return None
            words.append(content[found[1] : found[1] + found[0]].decode("utf-8", "replace"))
            at = found[1] + found[0]
        return time_s, ",".join(words), at - begin
