"""How a site and a coordinator prove to each other that they hold the site's key.

Four frames: the site names itself and the training it wants to join, with 32 random bytes; the coordinator answers
with its own and with a proof; the site answers with its proof; the coordinator accepts or says why not. All later
messages carry tags under a key made of both random numbers: what was said on one connection is void on another.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from clisonix.errors import ClisonixError
from clisonix.tide.message import Refused
from clisonix.tide.net.frames import frame, read_frame
from clisonix.tide.net.identity import certified_names
from clisonix.tide.replica import Rules, Schema

_MAGIC = b"TIDE-JOIN-1"
_RANDOM = 32
_LIMIT = 1024
"""Of a frame before anybody has proven anything."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, and the secret that both ends made for this connection."""

    name: str
    secret: bytes


def fingerprint(schema: Schema, rules: Rules) -> bytes:
    """32 bytes that are the same at nodes which train the same model by the same rules."""
    facts = {
        "trained": [[name, list(shape)] for name, shape in schema.trained.items()],
        "averaged": [[name, list(shape)] for name, shape in schema.averaged.items()],
        "rules": asdict(rules),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: str, key: bytes, training: bytes
) -> Peer:
    """The site's part.

    Returns:
        The coordinator.

    Raises:
        ClisonixError: the coordinator will not have this site; trying again is of no use.
        Refused: who answers does not hold the key.
        EOFError: it hung up.
    """
    hello = b"".join((_MAGIC, training, secrets.token_bytes(_RANDOM), site.encode()))
    writer.write(frame(hello))
    await writer.drain()
    answer = await read_frame(reader, _LIMIT)
    if len(answer) < 2 * _RANDOM:
        raise Refused("malformed", "what answers is no coordinator")
    said, proof = answer[:-32], answer[-32:]
    both = hello + said
    if not hmac.compare_digest(proof, _prove(key, b"coordinator", both)):
        raise Refused("unauthenticated", f"the coordinator does not hold the key of {site!r}")
    writer.write(frame(_prove(key, b"site", both)))
    await writer.drain()
    secret = _prove(key, b"connection", both)
    verdict = await read_frame(reader, _LIMIT)
    words, tag = verdict[:-32], verdict[-32:]
    if not hmac.compare_digest(tag, _prove(secret, b"verdict", words)):
        raise Refused("tampered", "the coordinator's verdict does not carry its tag")
    if words:
        raise ClisonixError(words.decode(errors="replace"))
    return Peer(said[_RANDOM:].decode(errors="replace"), secret)


async def answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    name: str,
    keys: Mapping[str, bytes],
    training: bytes,
) -> Peer:
    """The coordinator's part.

    Returns:
        The site.

    Raises:
        Refused: who calls does not hold the key of the site it says it is, or wants another training.
        EOFError: it hung up.
    """
    hello = await read_frame(reader, _LIMIT)
    at = len(_MAGIC)
    if not hello.startswith(_MAGIC) or len(hello) <= at + 2 * _RANDOM:
        raise Refused("malformed", "a connection was made that does not ask to join")
    wanted = hello[at : at + _RANDOM]
    try:
        site = hello[at + 2 * _RANDOM :].decode()
    except UnicodeDecodeError:
        raise Refused("malformed", "a site came whose name is not UTF-8") from None
    # A stranger gets an answer as well, so that nobody learns which sites there are.
    key = keys.get(site) or secrets.token_bytes(_RANDOM)
    said = secrets.token_bytes(_RANDOM) + name.encode()
    both = hello + said
    writer.write(frame(said + _prove(key, b"coordinator", both)))
    await writer.drain()
    proof = await read_frame(reader, _LIMIT)
    if not hmac.compare_digest(proof, _prove(key, b"site", both)):
        raise Refused("unauthenticated", f"who calls itself {site!r} does not hold its key")
    tls = writer.get_extra_info("ssl_object")
    if isinstance(tls, ssl.SSLObject) and site not in certified_names(tls):
        raise Refused("unauthenticated", f"the certificate shown by {site!r} is not made out to that name")
    secret = _prove(key, b"connection", both)
    verdict = ""
    if not hmac.compare_digest(wanted, training):
        verdict = (
            f"site {site!r} brings another model or other rules than the coordinator: give both the same config and "
            "build the same model"
        )
    words = verdict.encode()
    writer.write(frame(words + _prove(secret, b"verdict", words)))
    await writer.drain()
    if verdict:
        raise Refused("mismatched", verdict)
    return Peer(site, secret)


def _prove(key: bytes, part: bytes, content: bytes) -> bytes:
    return hmac.digest(key, b"clisonix tide 1 " + part + b"\0" + content, "sha256")
