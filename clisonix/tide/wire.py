"""Messages as they leave a node: sealed for one peer, and opened only if authentic, new and bounded.

After the body come a nonce and 32 bytes: HMAC-SHA-256 under the key of the pair, or plain SHA-256 without keys.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import struct
from collections import Counter
from collections.abc import Mapping

from clisonix.errors import ClisonixError
from clisonix.tide.message import COUNTS, HEAD, Limits, Message, Refused, read_head, read_rest

_NONCE = struct.Struct("<Q")
_TAG_BYTES = 32
_LOG = logging.getLogger(__name__)


class Wire:
    """Seals messages for peers and opens what comes from them.

    Args:
        keys: the shared secret of each peer, at least 16 bytes; None where the transport already authenticates.
        limits: sizes that are refused.
        nonce: the first number this node seals with; it must lie above all that it used before, so give the clock in
            nanoseconds to a node that can restart.

    Attributes:
        refused: how many messages were refused, by reason.
    """

    WINDOW = 1024
    """How far behind the newest message of a peer one may arrive late."""

    def __init__(self, keys: Mapping[str, bytes] | None = None, limits: Limits | None = None, nonce: int = 0) -> None:
        for peer, key in (keys or {}).items():
            if len(key) < 16:
                raise ClisonixError(
                    f"the key of {peer!r} has {len(key)} bytes, which is too short: give 32 random ones"
                )
        self._keys = keys
        self.limits = limits or Limits()
        self._nonce = nonce
        self._newest: dict[str, int] = {}
        self._seen: dict[str, set[int]] = {}
        self.refused: Counter[str] = Counter()

    def seal(self, message: Message, peer: str) -> bytes:
        """The message as bytes for `peer`.

        Raises:
            ClisonixError: there is no key for `peer`.
        """
        self._nonce += 1
        nonce = _NONCE.pack(self._nonce)
        return b"".join((message.body, nonce, self._tag(peer, message.body, nonce)))

    def open(self, data: bytes) -> Message:
        """The message in `data`, if it is whole, bounded, of a known version, authentic and new.

        Raises:
            Refused: it is not; counted and logged.
        """
        try:
            return self._open(data)
        except Refused as error:
            self.refused[error.reason] += 1
            _LOG.warning("refused a message: %s", error)
            raise

    def _tag(self, peer: str, body: bytes | memoryview, nonce: bytes | memoryview) -> bytes:
        if self._keys is None:
            digest = hashlib.sha256(body)
            digest.update(nonce)
            return digest.digest()
        key = self._keys.get(peer)
        if key is None:
            raise Refused("unauthenticated", f"{peer!r} has no key here: add it to the keys or leave it out")
        return hmac.digest(key, b"".join((body, nonce)), "sha256")

    def _open(self, data: bytes) -> Message:
        if len(data) > self.limits.message_bytes:
            raise Refused("oversized", f"a message of {len(data)} bytes is above {self.limits.message_bytes}")
        if len(data) < HEAD.size + COUNTS.size + _NONCE.size + _TAG_BYTES:
            raise Refused("malformed", f"{len(data)} bytes came that are no Tide message")
        end = len(data) - _NONCE.size - _TAG_BYTES
        head, at = read_head(data)
        sender = head.sender
        view = memoryview(data)
        tag = self._tag(sender, view[:end], view[end : end + _NONCE.size])
        if not hmac.compare_digest(tag, data[end + _NONCE.size :]):
            raise Refused("tampered", f"a message in the name of {sender!r} does not carry the tag of its content")
        message = read_rest(data, at, end, head, self.limits)
        self._remember(sender, _NONCE.unpack_from(data, end)[0])
        return message

    def _remember(self, sender: str, nonce: int) -> None:
        newest = self._newest.get(sender, -1)
        seen = self._seen.setdefault(sender, set())
        if nonce in seen or nonce <= newest - self.WINDOW:
            raise Refused("replayed", f"a message of {sender!r} came a second time, or far too late")
        seen.add(nonce)
        if nonce > newest:
            self._newest[sender] = nonce
            if len(seen) > 2 * self.WINDOW:
                self._seen[sender] = {each for each in seen if each > nonce - self.WINDOW}
