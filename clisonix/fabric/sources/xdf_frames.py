"""The frames of an XDF file, one after the other, past damage.

A frame is: one byte that says how many bytes its length takes (1, 4 or 8), the length, a tag of two bytes, and the
content. Specification: https://github.com/sccn/xdf/wiki/Specifications.
"""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, NamedTuple

from clisonix.fabric.sources.base import Notes

HEADER, STREAM, SAMPLES, OFFSET, BOUNDARY, FOOTER = range(1, 7)
BOUNDARY_ID = bytes.fromhex("43a546dccbf5410fb30ed5467383cbe4")
_SCAN = 1 << 20


class Frame(NamedTuple):
    """Where a frame lies.

    Attributes:
        tag: what it holds.
        begin: byte at which its content begins.
        length: bytes of content; those that are really there if `cut`.
        cut: the file ends, or seems to end, inside the frame.
    """

    tag: int
    begin: int
    length: int
    cut: bool


class Frames:
    """Steps from frame to frame and, after damage, on to the next boundary mark that writers leave for that."""

    def __init__(self, file: BinaryIO, size: int | None, notes: Notes, begin: int = 4) -> None:
        """Start behind the magic bytes.

        Args:
            file: positioned anywhere.
            size: bytes in the file; None when only reading tells (gzip).
            notes: where skipped bytes are noted.
            begin: byte of the first frame.
        """
        self._file = file
        self._size = size
        self._notes = notes
        self._next = begin

    def step(self) -> Frame | None:
        """The next frame; None at the end. The caller may read and seek as it likes in between."""
        while True:
            found = self._header(self._next)
            if found == "end":
                return None
            if isinstance(found, Frame):
                self._next = found.begin + found.length
                return found
            if not self.skip_to_boundary(self._next, found):
                return None

    def resume_at(self, offset: int, why: str) -> None:
        """Go on at this byte if a frame begins there, else at the next boundary mark."""
        found = self._header(offset)
        if isinstance(found, Frame) and not found.cut:
            self._next = offset
        else:
            self.skip_to_boundary(offset, why)

    def skip_to_boundary(self, offset: int, why: str) -> bool:
        """Leave out everything up to the next boundary mark, with a note; False if there is none."""
        at = self._find_boundary(offset)
        if at is None:
            self._notes.say_damage(f"at byte {offset} {why}; the rest of the file was left out")
            self._next = self._size if self._size is not None else 1 << 62
            return False
        self._notes.say_damage(f"at byte {offset} {why}; {at - offset} bytes were left out")
        self._next = at
        return True

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer at the end of the file or of what gzip can unpack."""
        try:
            self._file.seek(offset)
            return self._file.read(count)
        except (OSError, EOFError, zlib.error, OverflowError) as error:
            self._notes.say_damage(f"the file cannot be read behind byte {offset} ({_reason(error)})")
            return b""

    def _header(self, offset: int) -> Frame | str:
        """The frame that begins here, `"end"`, or what is wrong."""
        if self._size is not None and offset >= self._size:
            return "end"
        head = self.read(offset, 11)
        if not head:
            return "end"
        if head[0] not in (1, 4, 8):
            return "no frame begins"
        width = head[0]
        if len(head) < 3 + width:
            return "the file ends inside a frame"
        length = int.from_bytes(head[1 : 1 + width], "little") - 2
        tag = int.from_bytes(head[1 + width : 3 + width], "little")
        if length < 0 or not HEADER <= tag <= FOOTER:
            return "no frame begins"
        begin = offset + 3 + width
        if self._size is None or begin + length <= self._size:
            return Frame(tag, begin, length, False)
        if tag != SAMPLES:
            return f"a frame claims {length} bytes of which {self._size - begin} are there"
        return Frame(tag, begin, self._size - begin, True)

    def _find_boundary(self, offset: int) -> int | None:
        """First byte behind the next boundary mark."""
        overlap = len(BOUNDARY_ID) - 1
        while block := self.read(offset, _SCAN):
            at = block.find(BOUNDARY_ID)
            if at >= 0:
                return offset + at + len(BOUNDARY_ID)
            if len(block) <= overlap:
                break
            offset += len(block) - overlap
        return None


def varlen(content: bytes, at: int) -> tuple[int, int] | None:
    """A length of 1, 4 or 8 bytes, and the byte behind it; None if it is not one, or not whole."""
    if at >= len(content) or content[at] not in (1, 4, 8):
        return None
    end = at + 1 + content[at]
    return None if end > len(content) else (int.from_bytes(content[at + 1 : end], "little"), end)


def _reason(error: Exception) -> str:
    if isinstance(error, io.UnsupportedOperation):
        return "it cannot be searched"
    return getattr(error, "strerror", None) or "it is truncated or damaged"
