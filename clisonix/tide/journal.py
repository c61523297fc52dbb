"""What a coordinator writes into its log, and how it is read back."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.tide.codecs import Feedback
from clisonix.tide.log import Log
from clisonix.tide.message import Kind, Limits, Message, Packed, Refused, read_body
from clisonix.tide.replica import Replica

_LENGTH = struct.Struct("<I")
_OWN = Limits(message_bytes=2**40, decoded_bytes=2**40, fields_bytes=2**30)


def record_of(messages: Sequence[Message]) -> bytes:
    """Messages as one record."""
    bodies = [message.body for message in messages]
    return b"".join(part for body in bodies for part in (_LENGTH.pack(len(body)), body))


def write_record(log: Log, messages: Sequence[Message]) -> None:
    """Append a record; on return it is on the disk."""
    log.append(record_of(messages))


def read_record(record: bytes) -> list[Message]:
    """The messages of a record.

    Raises:
        Refused: it holds none.
    """
    messages, at = [], 0
    while at < len(record):
        length = _LENGTH.unpack_from(record, at)[0]
        at += _LENGTH.size
        messages.append(read_body(record[at : at + length], _OWN))
        at += length
    if not messages:
        raise Refused("malformed", "a record of the Tide log is empty")
    return messages


def base_of(name: str, replica: Replica, feedback: Feedback) -> Message:
    """Everything that a log must begin with to go on from this state."""
    parts = {"outer": replica.outer, "momentum": replica.momentum, "residual": feedback.residual}
    tensors = [Packed.raw(part, values) for part, values in parts.items()]
    tensors += [Packed.raw(f"memory/{i}", values) for i, values in enumerate(feedback.codec.memory())]
    tensors += replica.roll.tensors()
    fields = {"names": list(replica.roll.names)}
    return Message(Kind.BASE, name, replica.round, max(replica.term, 0), fields, tuple(tensors))


def restore(base: Message, replica: Replica, feedback: Feedback) -> None:
    """Put replica and feedback into the state of `base_of`.

    Raises:
        ClisonixError: it is of another model.
    """
    for name, mine in (("outer", replica.outer), ("momentum", replica.momentum), ("residual", feedback.residual)):
        given = base.tensor(name).array()
        if given.shape != mine.shape:
            raise ClisonixError(f"the Tide log holds a model of {given.size} values, not of {mine.size}")
        mine[:] = given
    memory = [each.array() for each in base.tensors if each.name.startswith("memory/")]
    feedback.codec.recall([np.array(each, np.float32) for each in memory])
    replica.roll.adopt(base)
    replica.round, replica.term = base.round, base.term
