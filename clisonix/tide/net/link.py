"""A site's end: a thread that keeps the connection, feeds the state machine, and lets the training wait for work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError
from clisonix.tide.message import Kind, Message, Refused
from clisonix.tide.net.channel import Channel, hang_up, limits_for
from clisonix.tide.net.handshake import call, fingerprint
from clisonix.tide.net.identity import read_key, tls_context
from clisonix.tide.net.settings import SiteSettings, address
from clisonix.tide.site import Site, Work

_PATIENCE_S = 10.0
_BACKOFF_S = (0.05, 2.0)
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Link:
    """Connects outwards, and again whenever the connection is lost.

    Args:
        site: the state machine; from now on this object alone may touch it.
        settings: of the site.

    Attributes:
        sent_bytes: handed to the socket so far, with framing but without what TLS and TCP add.
        received_bytes: likewise.
    """

    def __init__(self, site: Site, settings: SiteSettings) -> None:
        self.site, self._settings = site, settings
        self._key = read_key(settings.key)
        self._tls = tls_context(settings.tls, server=False) if settings.tls else None
        self._training = fingerprint(site.replica.schema, site.rules)
        self._limits = limits_for(site.replica.schema)
        self._past = [0, 0]
        self._channel: Channel | None = None
        self._error: ClisonixError | None = None
        self._why = "no connection was made yet"
        self._loop = asyncio.new_event_loop()
        self._busy, self._changed = asyncio.Lock(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="clisonix-tide", daemon=True)
        self._thread.start()

    @property
    def sent_bytes(self) -> int:
        """See the class."""
        return self._past[0] + (self._channel.sent_bytes if self._channel else 0)

    @property
    def received_bytes(self) -> int:
        """See the class."""
        return self._past[1] + (self._channel.received_bytes if self._channel else 0)

    def next_work(self) -> Work | None:
        """Wait for something to train; None when all rounds are done.

        Raises:
            ClisonixError: the coordinator will not have this site, or nothing was heard for too long.
        """
        return self._wait(self._next_work())

    def hand_in(self, work: Work, arrived: NDArray[np.float32], stop: int, weight: float) -> None:
        """Give the result of `work`; see `Site.finish`."""
        self._wait(self._do(lambda now_s: self.site.finish(work, arrived, stop, weight, now_s)))

    def leave(self) -> None:
        """Ask to be let go; `left` tells when it has happened."""
        self._wait(self._do(lambda _: self.site.leave()))

    def close(self, *, finished: bool) -> None:
        """Hang up and end the thread.

        Args:
            finished: tell the coordinator that this site has the last state.
        """
        if self._thread.is_alive():
            with contextlib.suppress(ClisonixError, TimeoutError, OSError):
                self._wait(self._end(finished))
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise self._error or ClisonixError("the link to the coordinator is closed: join again")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._live())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _live(self) -> None:
        pause_s = _BACKOFF_S[0]
        while True:
            begun_s = time.monotonic()
            try:
                await self._connect()
            except Refused as error:
                self._why = str(error)
                _LOG.warning("refused: %s", error)
            except ClisonixError as error:
                self._error = error
                self._changed.set()
                await asyncio.Event().wait()
            except (OSError, EOFError, TimeoutError, ssl.SSLError) as error:
                self._why = str(error) or type(error).__name__
                _LOG.info("no connection to %s (%s)", self._settings.coordinator, self._why)
            if time.monotonic() - begun_s > _PATIENCE_S:
                pause_s = _BACKOFF_S[0]
            await asyncio.sleep(pause_s)
            pause_s = min(_BACKOFF_S[1], 2 * pause_s)

    async def _connect(self) -> None:
        host, port = address(self._settings.coordinator)
        name = None
        if self._settings.tls:
            name = self._settings.tls.server_name or host
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=self._tls, server_hostname=name)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                peer = await call(reader, writer, self.site.name, self._key, self._training)
            channel = Channel(reader, writer, peer, self._limits, self._settings.heartbeat_s)
            self._channel = channel
            tasks = [asyncio.create_task(channel.pump()), asyncio.create_task(self._watch(channel))]
            await self._do(self.site.again)
            async for message in channel.messages():
                await self._do(lambda now_s, message=message: self.site.handle(message, now_s))  # type: ignore[misc]
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                # Also when the link is closed while it waits here, as happens when the coordinator hung up first.
                if self._channel is not None:
                    self._past = [self.sent_bytes, self.received_bytes]
                    self._channel = None
                await hang_up(writer)

    async def _watch(self, channel: Channel) -> None:
        pause_s = min(0.5, self._settings.heartbeat_s / 4)
        while True:
            await asyncio.sleep(pause_s)
            if time.monotonic() - channel.heard_s > 3 * self._settings.heartbeat_s:
                _LOG.warning("the coordinator is silent, so the connection is made anew")
                channel.close()
                return
            # On a slow line what was sent before is still on its way; to send it again would only delay it.
            if channel.idle():
                await self._do(self.site.tick)

    async def _do(self, act: Callable[[float], list[Message]]) -> None:
        """Let the state machine act, in a thread so that signs of life go on being sent, and send what it says."""
        async with self._busy:
            out = await asyncio.to_thread(act, time.monotonic())
        for message in out:
            if self._channel is not None:
                self._channel.post(message)
        self._changed.set()

    async def _next_work(self) -> Work | None:
        deadline_s, seen = time.monotonic() + self._settings.give_up_s, -1
        while True:
            if self._error:
                raise self._error
            self._changed.clear()
            async with self._busy:
                work, now = self.site.work(), self.site.replica.round
                over = self.site.left or (
                    self._settings.rounds is not None and self.site.ready and now >= self._settings.rounds
                )
            if over:
                return None
            if work is not None and (self._settings.rounds is None or work.round < self._settings.rounds):
                return work
            if now != seen:
                deadline_s, seen = time.monotonic() + self._settings.give_up_s, now
            try:
                async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                why = "it is connected, but too few other sites are" if self._channel else self._why
                raise ClisonixError(
                    f"site {self.site.name!r} heard nothing new from {self._settings.coordinator} for "
                    f"{self._settings.give_up_s:g} s ({why}): see that the coordinator and most sites run"
                ) from None

    async def _end(self, finished: bool) -> None:
        channel = self._channel
        if finished and channel is not None:
            replica = self.site.replica
            channel.post(Message(Kind.LEAVE, self.site.name, replica.round, self.site.term))
            await channel.flush(5.0)
