"""Frames on a stream: four bytes of length, then as many bytes; an empty one is a sign of life."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from clisonix.tide.message import Refused

_LENGTH = struct.Struct("<I")
_PART = 2**18
OVERHEAD = _LENGTH.size


async def read_frame(reader: asyncio.StreamReader, limit: int, heard: Callable[[], None] | None = None) -> bytes:
    """The next frame.

    Args:
        reader: of the connection.
        limit: the longest frame that is read; of a longer one nothing is read or allocated.
        heard: called whenever something has arrived, as a long frame on a slow line is a sign of life too.

    Raises:
        Refused: it is longer.
        EOFError: the connection has ended.
    """
    length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
    if length > limit:
        raise Refused("oversized", f"a frame of {length} bytes came, but {limit} are allowed")
    parts, left = [], length
    while left:
        part = await reader.read(min(left, _PART))
        if not part:
            raise EOFError("the connection ended within a frame")
        if heard:
            heard()
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def frame(content: bytes) -> bytes:
    """The content with its length before it."""
    return b"".join((_LENGTH.pack(len(content)), content))
