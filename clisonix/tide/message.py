"""What nodes say to each other, and its binary form, version 1; every size is checked before anything is allocated.

Little endian: `TIDE`, version, kind, round, term, sender, fields (JSON of a fixed form for each kind), table of
tensors (name, codec, dtype, shape, length), payloads. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError

VERSION = 1
_MAGIC = b"TIDE"
HEAD = struct.Struct("<4sBBIIB")
COUNTS = struct.Struct("<IH")
_ENTRY = struct.Struct("<BBBBI")
_DTYPES = ("uint8", "float32", "float64", "int64", "int32", "int16", "int8", "float16", "bool")


class Kind(IntEnum):
    """What a message is for."""

    JOIN = 1
    WELCOME = 2
    UPDATE = 3
    COMMIT = 4
    TREE = 5
    HEAL = 6
    CALL = 7
    PROMISE = 8
    STALE = 9
    LEAVE = 10
    BASE = 11


_FIELDS: dict[Kind, dict[str, type]] = {
    Kind.JOIN: {"damaged": int},
    Kind.WELCOME: {"root": str, "names": list, "held_term": int},
    Kind.UPDATE: {"start": int, "stop": int, "weight": float, "held": int, "root": str},
    Kind.COMMIT: {"joined": list, "left": list},
    Kind.TREE: {},
    Kind.HEAL: {"root": str, "names": list, "held_term": int},
    Kind.CALL: {},
    Kind.PROMISE: {"held_term": int},
    Kind.STALE: {},
    Kind.LEAVE: {},
    Kind.BASE: {"names": list},
}


class Refused(ClisonixError):  # noqa: N818 - what happened to a message, as in the field `refused`
    """A message that is not acted upon.

    Attributes:
        reason: one word: `oversized`, `malformed`, `version`, `unauthenticated`, `tampered` or `replayed`.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Packed:
    """One tensor as it travels: `data` is what `codec` made of an array of this dtype and shape; codec 0 is raw."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    codec: int = 0

    @classmethod
    def raw(cls, name: str, array: NDArray[np.generic]) -> Packed:
        """The array as it is."""
        return cls(name, str(array.dtype), array.shape, array.tobytes())

    def array(self) -> NDArray[np.generic]:
        """The array of a raw tensor, read-only."""
        if self.codec != 0:
            raise Refused("malformed", f"tensor {self.name!r} came in codec {self.codec}, but raw values are needed")
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Message:
    """One thing a node says to another.

    Args:
        kind: what it is for.
        sender: who says it, at most 255 bytes of UTF-8.
        round: of the training.
        term: of the coordinator that is followed.
        fields: the small values that `kind` asks for.
        tensors: the large ones.
    """

    kind: Kind
    sender: str
    round: int = 0
    term: int = 0
    fields: Mapping[str, object] = field(default_factory=dict)
    tensors: tuple[Packed, ...] = ()

    def tensor(self, name: str) -> Packed:
        """The tensor of that name.

        Raises:
            Refused: there is none.
        """
        for each in self.tensors:
            if each.name == name:
                return each
        raise Refused("malformed", f"a {self.kind.name} message from {self.sender!r} lacks its tensor {name!r}")

    def number(self, name: str) -> int:
        """An integer field."""
        value = self.fields[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """A text field."""
        return str(self.fields[name])

    def names(self, name: str) -> list[str]:
        """A field that lists sites."""
        value = self.fields[name]
        assert isinstance(value, list)
        return value

    @cached_property
    def body(self) -> bytes:
        """The bytes of it, without nonce and tag; made once however many sites it goes to."""
        sender = self.sender.encode()
        fields = json.dumps(self.fields, separators=(",", ":"), allow_nan=False).encode() if self.fields else b""
        parts = [
            HEAD.pack(_MAGIC, VERSION, self.kind, self.round, self.term, len(sender)),
            sender,
            COUNTS.pack(len(fields), len(self.tensors)),
            fields,
        ]
        for each in self.tensors:
            name = each.name.encode()
            parts.append(
                _ENTRY.pack(len(name), each.codec, _DTYPES.index(each.dtype), len(each.shape), len(each.data))
            )
            parts += [name, struct.pack(f"<{len(each.shape)}I", *each.shape)]
        parts += [each.data for each in self.tensors]
        return b"".join(parts)


@dataclass(frozen=True)
class Limits:
    """What a node is willing to read.

    Args:
        message_bytes: the longest message.
        decoded_bytes: what all tensors of a message may take once decoded; checked before anything is allocated.
        fields_bytes: the small values.
    """

    message_bytes: int = 64 * 2**20
    decoded_bytes: int = 2**30
    fields_bytes: int = 2**20


def read_body(data: bytes, limits: Limits | None = None) -> Message:
    """The message whose `body` this is, such as one kept in a log.

    Raises:
        Refused: it is none.
    """
    if len(data) < HEAD.size + COUNTS.size:
        raise Refused("malformed", f"{len(data)} bytes came that are no Tide message")
    head, at = read_head(data)
    return read_rest(data, at, len(data), head, limits or Limits())


def read_head(data: bytes) -> tuple[Message, int]:
    """Kind, sender, round and term, and where the rest begins."""
    magic, version, kind, round_, term, sender_length = HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise Refused("malformed", f"{len(data)} bytes came that are no Tide message")
    if version != VERSION:
        raise Refused("version", f"a message of version {version} came, but this node speaks version {VERSION}")
    at = HEAD.size + sender_length
    try:
        return Message(_kind(kind), data[HEAD.size : at].decode(), round_, term), at
    except UnicodeDecodeError:
        raise Refused("malformed", "a message came whose sender is not UTF-8") from None


def read_rest(data: bytes, at: int, end: int, head: Message, limits: Limits) -> Message:
    """The whole message, whose fields begin at `at` and whose payloads end at `end`."""
    try:
        fields_length, count = COUNTS.unpack_from(data[:end], at)
        at += COUNTS.size
        if fields_length > limits.fields_bytes:
            raise Refused("oversized", f"fields of {fields_length} bytes are above {limits.fields_bytes}")
        if at + fields_length + count * _ENTRY.size > end:
            raise Refused("malformed", "a message came that is shorter than it says")
        fields = _checked(head.kind, data[at : at + fields_length])
        at += fields_length
        table, decoded, payload = [], 0, 0
        for _ in range(count):
            name_length, codec, dtype, dimensions, length = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            name = data[at : at + name_length].decode()
            at += name_length
            shape = struct.unpack_from(f"<{dimensions}I", data, at)
            at += 4 * dimensions
            size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
            decoded, payload = decoded + size, payload + length
            if decoded > limits.decoded_bytes:
                raise Refused("oversized", f"tensors of {decoded} bytes are above {limits.decoded_bytes}")
            if codec == 0 and length != size:
                raise Refused("malformed", f"tensor {name!r} has {length} bytes, but its shape needs {size}")
            table.append((name, _DTYPES[dtype], shape, length, codec))
    except (struct.error, UnicodeDecodeError, IndexError, ValueError, RecursionError) as error:
        raise Refused("malformed", f"a message from {head.sender!r} cannot be read ({error})") from error
    if at + payload != end:
        raise Refused("malformed", f"a message from {head.sender!r} has {end - at} bytes of payload, not {payload}")
    tensors = []
    for name, dtype_name, shape, length, codec in table:
        tensors.append(Packed(name, dtype_name, shape, data[at : at + length], codec))
        at += length
    return Message(head.kind, head.sender, head.round, head.term, fields, tuple(tensors))


def _kind(value: int) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise Refused("malformed", f"a message of unknown kind {value} came") from None


def _checked(kind: Kind, content: bytes) -> dict[str, object]:
    fields = json.loads(content) if content else {}
    wanted = _FIELDS[kind]
    if not isinstance(fields, dict) or fields.keys() != wanted.keys():
        raise Refused("malformed", f"a {kind.name} message must have the fields {sorted(wanted)}")
    for name, form in wanted.items():
        value = fields[name]
        fits = type(value) is form or (form is float and type(value) is int)
        if form is int and fits:
            fits = 0 <= value < 2**63
        elif form is float and fits:
            fits = math.isfinite(value) and value > 0
        elif name == "root" and fits:
            fits = len(value) == 64 and not value.strip("0123456789abcdef")
        elif form is list and fits:
            fits = all(type(each) is str for each in value)
        if not fits:
            raise Refused("malformed", f"the field {name!r} of a {kind.name} message is not what it must be")
    return fields
