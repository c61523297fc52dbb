"""The coordinator's process: it binds the addresses it is told, drives the state machine, resumes from its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from clisonix.errors import ClisonixError
from clisonix.files import append_lines, cannot_write
from clisonix.tide.coordinator import DAMAGED, Coordinator, Outgoing
from clisonix.tide.log import Log
from clisonix.tide.message import Kind, Message, Refused
from clisonix.tide.net.channel import Channel, hang_up, limits_for
from clisonix.tide.net.handshake import answer, fingerprint
from clisonix.tide.net.identity import read_keys, tls_context
from clisonix.tide.net.settings import CoordinatorSettings, address
from clisonix.tide.net.start import read_start, save_state
from clisonix.tide.replica import Replica

_NAME = "coordinator"
_STRANGERS = 64
_GREETING_S = 10.0
_LONG = 64 * 2**20
_LOG = logging.getLogger(__name__)


def serve(settings: CoordinatorSettings) -> str:
    """Coordinate until all rounds are done or the process is told to end.

    Returns:
        The digest of the last state, in hex.

    Raises:
        ClisonixError: a file or an address cannot be used, or the sites agree on no state.
    """
    return asyncio.run(_Service(settings).run())


class _Service:
    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._keys = read_keys(settings.keys)
        self._schema, self._start = read_start(settings.start)
        self._training = fingerprint(self._schema, settings.rules)
        self._limits = limits_for(self._schema)
        self._tls = tls_context(settings.tls, server=True) if settings.tls else None
        self._lock = _only_one(settings.log)
        self._coordinator = self._resume()
        self._busy = asyncio.Lock()
        self._channels: dict[str, Channel] = {}
        self._strangers = 0
        self._silent_since: dict[str, float] = {}
        self._done: set[str] = set()
        self._ended_s: float | None = None
        self._stop = asyncio.Event()
        self._failure: str | None = None
        self._gone_bytes = [0, 0]
        self._reported = (0, 0)
        self.refused: Counter[str] = Counter()

    def _resume(self) -> Coordinator:
        log = Log.open(self._settings.log)
        coordinator = Coordinator(_NAME, Replica(self._schema, self._settings.rules, self._start), log, self._note)
        log.records.clear()
        self._log_bytes = self._settings.log.stat().st_size
        self._round_s = time.monotonic()
        self._last: tuple[Message, list[Message]] | None = None
        return coordinator

    async def run(self) -> str:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, self._stop.set)
        await self._do(lambda now_s: self._coordinator.start(now_s))
        servers = []
        try:
            for each in self._settings.listen:
                host, port = address(each)
                allowed_s = _GREETING_S if self._tls else None
                servers.append(
                    await asyncio.start_server(
                        self._accept, host, port, ssl=self._tls, ssl_handshake_timeout=allowed_s
                    )
                )
                _LOG.info("listening on %s in round %d", each, self._coordinator.replica.round)
            await self._watch()
        except OSError as error:
            raise ClisonixError(
                f"{self._settings.listen} cannot be listened on ({error}): give free addresses"
            ) from error
        finally:
            for server in servers:
                server.close()
            for channel in self._channels.values():
                await channel.flush(2.0)
                channel.close()
            self._coordinator.log.close()
            self._lock.close()
        if self._failure:
            raise ClisonixError(self._failure)
        replica = self._coordinator.replica
        if self._settings.result and self._is_over():
            save_state(self._schema, replica.outer, self._settings.result)
        return replica.root().hex()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = None
        try:
            if self._strangers >= _STRANGERS:
                raise Refused("crowded", f"more than {_STRANGERS} connections have proven nothing yet")
            self._strangers += 1
            try:
                async with asyncio.timeout(_GREETING_S):
                    peer = await answer(reader, writer, _NAME, self._keys, self._training)
            finally:
                self._strangers -= 1
            channel = Channel(reader, writer, peer, self._limits, self._settings.heartbeat_s)
            await self._speak(channel)
        except Refused as error:
            # What the wire refuses it has logged itself.
            if channel is None or not channel.wire.refused[error.reason]:
                _LOG.warning("refused: %s", error)
            self.refused[error.reason] += 1
        except (EOFError, OSError, TimeoutError, ssl.SSLError) as error:
            _LOG.info("a connection ended (%s)", error or type(error).__name__)
        finally:
            await hang_up(writer)

    async def _speak(self, channel: Channel) -> None:
        site = channel.peer.name
        old = self._channels.get(site)
        if old is not None:
            old.close()  # the site has come again; the other end of this one is gone
        self._channels[site] = channel
        self._silent_since.pop(site, None)
        pump = asyncio.create_task(channel.pump())
        try:
            await self._do(lambda now_s: self._coordinator.present(site, now_s))
            async for message in channel.messages():
                if message.kind is Kind.LEAVE and self._is_over():
                    self._done.add(site)
                    continue
                done = self._is_over() and message.round >= self._coordinator.replica.round
                if message.kind is Kind.UPDATE and done:
                    continue
                await self._do(lambda now_s, message=message: self._coordinator.handle(message, now_s))  # type: ignore[misc]
        finally:
            pump.cancel()
            self._gone_bytes[0] += channel.sent_bytes
            self._gone_bytes[1] += channel.received_bytes
            if self._channels.get(site) is channel:
                del self._channels[site]

    async def _do(self, act: Callable[[float], Outgoing]) -> None:
        """Let the state machine act, in a thread so that signs of life go on being heard, and send what it says."""
        async with self._busy:
            out = await asyncio.to_thread(act, time.monotonic())
            if self._last is not None:
                await asyncio.to_thread(self._report)
        for site, message in out:
            channel = self._channels.get(site)
            if channel is not None:
                channel.post(message)

    async def _watch(self) -> None:
        """Look at the clock until the end."""
        pause_s = min(0.2, self._settings.heartbeat_s / 10)
        looked_s = time.monotonic()
        while not self._stop.is_set():
            now_s = time.monotonic()
            # After a pause of this process itself nobody else may be blamed for silence.
            if now_s - looked_s < self._settings.heartbeat_s / 2:
                await self._look_for_silent(now_s)
            looked_s = time.monotonic()
            await self._do(lambda now_s: self._coordinator.tick(now_s))
            if self._coordinator.halted == DAMAGED:
                _LOG.warning("%s; doing so", DAMAGED)
                self._coordinator.log.close()
                self._coordinator = self._resume()
                await self._do(lambda now_s: self._coordinator.start(now_s))
            elif self._coordinator.halted:
                self._failure = self._coordinator.halted
                return
            if self._is_over():
                self._ended_s = self._ended_s or now_s
                everybody = self._done.issuperset(self._coordinator.replica.roll.voters)
                if everybody or now_s - self._ended_s > self._settings.linger_s:
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _look_for_silent(self, now_s: float) -> None:
        for site in self._coordinator.replica.roll.voters:
            channel = self._channels.get(site)
            since = channel.heard_s if channel else self._silent_since.setdefault(site, now_s)
            away = site in self._coordinator.members.away
            if now_s - since > self._settings.heartbeat_s and not away:
                _LOG.warning("site %s is silent, so rounds go on without it", site)
                await self._do(lambda at_s, site=site: self._coordinator.absent(site, at_s))  # type: ignore[misc]
            elif channel and away and now_s - since <= self._settings.heartbeat_s:
                await self._do(lambda at_s, site=site: self._coordinator.present(site, at_s))  # type: ignore[misc]

    def _is_over(self) -> bool:
        rounds = self._settings.rounds
        return rounds is not None and self._coordinator.replica.round >= rounds

    def _note(self, commit: Message, used: list[Message]) -> None:
        self._last = (commit, used)

    def _report(self) -> None:
        assert self._last is not None
        (commit, used), self._last = self._last, None
        now_s = time.monotonic()
        down = self._gone_bytes[0] + sum(each.sent_bytes for each in self._channels.values())
        up = self._gone_bytes[1] + sum(each.received_bytes for each in self._channels.values())
        if self._settings.report:
            odd = [each.data.decode().split("\n") for each in commit.tensors if each.name == "odd"]
            line = {
                "round": commit.round + 1,
                "term": commit.term,
                "digest": self._coordinator.agreed(),
                "used": {each.sender: each.number("stop") - each.number("start") for each in used},
                "odd": odd[0] if odd else [],
                "confessed": dict(self._coordinator.confessed),
                "joined": commit.names("joined"),
                "left": commit.names("left"),
                "seconds": now_s - self._round_s,
                "bytes_up": up - self._reported[1],
                "bytes_down": down - self._reported[0],
                "refused": dict(self.refused),
            }
            append_lines(self._settings.report, [line])
        self._reported, self._round_s = (down, up), now_s
        size = self._settings.log.stat().st_size
        if size > 2 * self._log_bytes + _LONG:
            log = Log.rewrite(self._settings.log, self._coordinator.records())
            log.records.clear()
            self._coordinator.log.close()
            self._coordinator.log, self._log_bytes = log, self._settings.log.stat().st_size


def _only_one(log: Path) -> BinaryIO:
    """Two coordinators on one log would tear it."""
    path = log.with_name(log.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ClisonixError(f"another coordinator is running on {log}: end it first") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    return file
