"""One authenticated connection, seen from either end: messages in, messages out, and signs of life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from clisonix.tide.message import Limits, Message
from clisonix.tide.net.frames import OVERHEAD, frame, read_frame
from clisonix.tide.net.handshake import Peer
from clisonix.tide.pending import HEAL_BYTES
from clisonix.tide.replica import Schema
from clisonix.tide.wire import Wire

_WAITING = 64
_PARTING_S = 2.0
_LOG = logging.getLogger(__name__)


class Channel:
    """Speaks to one peer whose identity has been proven.

    What cannot be sent for long is dropped, as it would be stale; the state machines send again what matters.

    Args:
        reader: of the connection.
        writer: of the connection.
        peer: at the other end.
        limits: of what is read from it.
        heartbeat_s: after which silence means that the peer is gone.

    Attributes:
        sent_bytes: handed to the socket, with framing but without what TLS and TCP add.
        received_bytes: likewise.
        heard_s: when something last came, on the monotonic clock.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer,
        limits: Limits,
        heartbeat_s: float,
    ) -> None:
        self.peer, self._reader, self._writer = peer, reader, writer
        self.wire = Wire({peer.name: peer.secret}, limits)
        self._pulse_s = heartbeat_s / 4
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_WAITING)
        self._sending = False
        self.sent_bytes = self.received_bytes = 0
        self.heard_s = time.monotonic()

    def idle(self) -> bool:
        """Has everything been handed to the socket?"""
        return self._queue.empty() and not self._sending

    def post(self, message: Message) -> None:
        """Send it when its turn comes."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            _LOG.warning("dropped a %s message to %s, which reads too slowly", message.kind.name, self.peer.name)

    async def messages(self) -> AsyncIterator[Message]:
        """What the peer says.

        Raises:
            Refused: it is too long, damaged or replayed.
            EOFError: the connection has ended.
            OSError: it broke.
        """
        while True:
            data = await read_frame(self._reader, self.wire.limits.message_bytes, self._heard)
            self._heard()
            self.received_bytes += len(data) + OVERHEAD
            if data:
                yield await asyncio.to_thread(self.wire.open, data)
                self._heard()  # what took long to act upon was not silence

    async def pump(self) -> None:
        """Send what was posted, and a sign of life when there is nothing; ends when the connection breaks."""
        with contextlib.suppress(OSError):
            while True:
                self._sending = False
                try:
                    message = await asyncio.wait_for(self._queue.get(), self._pulse_s)
                except TimeoutError:
                    data = b""
                else:
                    self._sending = True
                    data = await asyncio.to_thread(self.wire.seal, message, self.peer.name)
                self._writer.write(frame(data))
                self.sent_bytes += len(data) + OVERHEAD
                await self._writer.drain()
        self.close()

    async def flush(self, timeout_s: float) -> None:
        """Wait until all is handed to the system, but not for ever."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s and not (self.idle() and self._writer.transport.get_write_buffer_size() == 0):
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _heard(self) -> None:
        self.heard_s = time.monotonic()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection and see its socket closed: what the peer does not take within two seconds is dropped.

    Cancelled, it drops that at once.
    """
    writer.close()
    try:
        async with asyncio.timeout(_PARTING_S):
            await writer.wait_closed()
    except (OSError, EOFError):  # TimeoutError is an OSError; how the connection ended was told to who read from it
        writer.transport.abort()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise


def limits_for(schema: Schema) -> Limits:
    """Sizes beyond which no honest message about this model can be: a dense update or a part of a remedy."""
    state = 4 * schema.size
    longest = state + state // 4 + HEAL_BYTES + 8 * 2**20
    return Limits(message_bytes=longest, decoded_bytes=2 * longest)
