"""What a connection must prove before a word on it counts."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clisonix.errors import ClisonixError
from clisonix.tide import CoordinatorSettings, SiteSettings, TideEngine
from clisonix.tide.flat import Flat
from clisonix.tide.message import Kind, Message, Refused
from clisonix.tide.net import handshake
from clisonix.tide.net import link as link_module
from clisonix.tide.net.channel import hang_up
from clisonix.tide.net.frames import frame, read_frame
from clisonix.tide.net.identity import make_key, read_key, read_keys
from clisonix.tide.net.link import Link
from clisonix.tide.net.start import read_start, write_start
from clisonix.tide.replica import Rules, Schema
from clisonix.tide.wire import Wire

KEY, OTHER, TRAINING = bytes(range(32)), bytes(32), bytes(range(32, 64))


def meet(site: Callable[..., Awaitable[Any]], keys: dict[str, bytes]) -> tuple[Any, Any]:
    """What comes of `site(reader, writer)` and of the coordinator that it calls: peers, or what they raised."""

    async def both() -> tuple[Any, Any]:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                answered.set_result(await handshake.answer(reader, writer, "hub", keys, TRAINING))
            except (Refused, EOFError) as error:
                answered.set_result(error)
            await hang_up(writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            called = await site(reader, writer)
        except (ClisonixError, EOFError) as error:
            called = error
        await hang_up(writer)
        result = called, await asyncio.wait_for(answered, 10)
        server.close()
        await server.wait_closed()
        return result

    return asyncio.run(both())


def caller(key: bytes = KEY, name: str = "north", training: bytes = TRAINING) -> Callable[..., Awaitable[Any]]:
    return lambda reader, writer: handshake.call(reader, writer, name, key, training)


def test_both_ends_know_each_other_and_share_a_secret_of_this_connection() -> None:
    pairs = [meet(caller(), {"north": KEY}) for _ in range(2)]
    for site, hub in pairs:
        assert (site.name, hub.name) == ("hub", "north")
        assert site.secret == hub.secret
    assert pairs[0][0].secret != pairs[1][0].secret
    # What was said on one connection does not count on another.
    said = Wire({"hub": pairs[0][0].secret}).seal(Message(Kind.LEAVE, "north"), "hub")
    with pytest.raises(Refused, match="does not carry the tag"):
        Wire({"north": pairs[1][1].secret}).open(said)


@pytest.mark.parametrize("name", ["north", "stranger"])
def test_who_does_not_hold_the_key_is_refused_and_learns_nothing(name: str) -> None:
    site, hub = meet(caller(OTHER, name), {"north": KEY})
    assert isinstance(site, Refused)
    assert site.reason == "unauthenticated"
    assert isinstance(hub, EOFError)


@pytest.mark.parametrize("name", ["north", "stranger"])
def test_a_proof_made_without_the_key_is_refused(name: str) -> None:
    async def forge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(b"TIDE-JOIN-1" + TRAINING + bytes(32) + name.encode()))
        await read_frame(reader, 1024)
        writer.write(frame(bytes(32)))
        await reader.read()

    _, hub = meet(forge, {"north": KEY})
    assert isinstance(hub, Refused)
    assert hub.reason == "unauthenticated"


def test_a_handshake_that_was_overheard_cannot_be_played_again() -> None:
    heard: list[bytes] = []

    class Ear:
        def __init__(self, writer: asyncio.StreamWriter) -> None:
            self._writer = writer

        def write(self, data: bytes) -> None:
            heard.append(data)
            self._writer.write(data)

        async def drain(self) -> None:
            await self._writer.drain()

    meet(lambda r, w: handshake.call(r, Ear(w), "north", KEY, TRAINING), {"north": KEY})  # type: ignore[arg-type]

    async def replay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for data in heard:
            writer.write(data)
        await reader.read()

    _, hub = meet(replay, {"north": KEY})
    assert isinstance(hub, Refused)


def test_another_model_or_other_rules_are_told_to_the_site() -> None:
    site, hub = meet(caller(training=bytes(32)), {"north": KEY})
    assert "another model or other rules" in str(site)
    assert hub.reason == "mismatched"
    schema = Schema({"w": (2, 3)})
    prints = {
        handshake.fingerprint(schema, Rules()),
        handshake.fingerprint(schema, Rules(outer_lr=0.5)),
        handshake.fingerprint(Schema({"w": (3, 2)}), Rules()),
    }
    assert len(prints) == 3


def test_what_does_not_ask_to_join_is_refused() -> None:
    async def browser(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.read()

    assert meet(browser, {"north": KEY})[1].reason == "oversized"


def test_a_frame_that_is_too_long_is_refused_before_anything_is_allocated() -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame(b"good") + (2**31).to_bytes(4, "little") + b"bad")
        assert await read_frame(reader, 100) == b"good"
        tracemalloc.start()
        with pytest.raises(Refused) as caught:
            await read_frame(reader, 100)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.reason == "oversized"
        assert peak < 10**5

    asyncio.run(read())


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_peer_that_no_longer_reads_keeps_no_socket_open(cancelled: bool) -> None:
    async def part() -> None:
        others: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, other: others.append(other), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(2**26))
        assert writer.transport.get_write_buffer_size() > 0
        parting = asyncio.create_task(hang_up(writer))
        if cancelled:
            await asyncio.sleep(0)
            parting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await parting
        else:
            await parting
        await asyncio.sleep(0)
        assert writer.get_extra_info("socket").fileno() == -1
        for other in others:
            await hang_up(other)
        assert len(others) == 1
        server.close()

    asyncio.run(part())


def test_a_link_that_is_closed_while_it_parts_keeps_no_socket_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator has hung up; the link, still ending what it began beside the connection, is closed."""
    parting, writers = threading.Event(), []

    class Ended:
        sent_bytes = received_bytes = 0

        def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *_: Any) -> None:
            writers.append(writer)
            self.heard_s = time.monotonic()

        async def pump(self) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                parting.set()
                await asyncio.sleep(60)

        async def messages(self) -> Any:
            await asyncio.sleep(0)
            for none in tuple[Any, ...]():
                yield none

        def idle(self) -> bool:
            return False

    async def greeted(*_: Any) -> None:
        return None

    monkeypatch.setattr(link_module, "Channel", Ended)
    monkeypatch.setattr(link_module, "call", greeted)
    with socket.create_server(("127.0.0.1", 0)) as server:
        make_key(tmp_path, "north")
        address = f"127.0.0.1:{server.getsockname()[1]}"
        settings = SiteSettings(site="north", coordinator=address, key=tmp_path / "north.key")
        monkeypatch.setattr(link_module, "fingerprint", lambda *_: b"")
        monkeypatch.setattr(link_module, "limits_for", lambda *_: None)
        site = SimpleNamespace(name="north", rules=None, replica=SimpleNamespace(schema=None), again=lambda _: [])
        link = Link(site, settings)  # type: ignore[arg-type]
        assert parting.wait(30)
        link.close(finished=False)
    assert writers[0].get_extra_info("socket").fileno() == -1


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = make_key(tmp_path / "keys", "north")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_keys(tmp_path / "keys") == {"north": read_key(path)}
    with pytest.raises(ClisonixError, match="is there already"):
        make_key(tmp_path / "keys", "north")
    path.chmod(0o644)
    with pytest.raises(ClisonixError, match="chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("00ff")
    with pytest.raises(ClisonixError, match="64 hexadecimal digits"):
        read_key(path)


SITE = {"site": "north", "coordinator": "127.0.0.1:7433", "key": "north.key"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"coordinator": "10.0.0.1:7433"}, "no tls is given"),
        ({"coordinator": "7433"}, "is no address"),
        ({"site": "../north"}, "is no name"),
        ({"inner_step": 3}, "did you mean 'inner_steps'"),
        ({"rules": {"outer_ir": 1}}, "did you mean 'outer_lr'"),
        ({"rules": {"up": {"form": "dense", "bitz": 1}}}, "did you mean 'bits'"),
        ({"tls": {"ca": "ca.pem"}}, "tls lacks 'certificate'"),
        ({"key": None}, "lacks 'key'"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_bad_settings_of_a_site_are_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClisonixError, match=sentence):
        TideEngine.join(nn.Linear(2, 2), {"engine": "sites", **SITE, **change})


def test_a_coordinator_binds_nothing_that_it_was_not_told() -> None:
    paths = {"keys": "keys", "log": "log", "start": "start"}
    with pytest.raises(ClisonixError, match="listen is empty"):
        CoordinatorSettings.of(paths)
    with pytest.raises(ClisonixError, match="no tls is given"):
        CoordinatorSettings.of({**paths, "listen": "0.0.0.0:7433"})
    assert CoordinatorSettings.of({**paths, "listen": "[::1]:7433"}).listen == ("[::1]:7433",)
    assert SiteSettings.of({**SITE, "coordinator": "10.0.0.1:1", "insecure": True}).insecure


def test_an_engine_that_is_not_there_is_named() -> None:
    with pytest.raises(ClisonixError, match="did you mean 'sites'"):
        TideEngine.join(nn.Linear(2, 2), engine="site")


def test_a_model_becomes_a_vector_and_back_without_passing_rounding_for_progress(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).bfloat16())
    write_start(model, tmp_path / "start.safetensors")
    schema, begun = read_start(tmp_path / "start.safetensors")
    flat = Flat(model)
    assert (schema.trained, schema.averaged) == (flat.schema.trained, flat.schema.averaged)
    # A state between two bfloat16 numbers.
    begun += np.float32(1e-4)
    flat.write(begun)
    assert np.array_equal(flat.read(begun), begun)
    assert not np.array_equal(flat.read(), begun)
    with pytest.raises(ClisonixError, match="float64"):
        Flat(nn.Linear(2, 2).double())
