"""What a site has handed in, and what its messages carry beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clisonix.tide.codecs import Codec
from clisonix.tide.message import Kind, Message, Packed, Refused

Floats = NDArray[np.float32]


@dataclass
class Pending:
    """What a site has handed in and the group has not used yet."""

    round: int
    start: int
    stop: int
    weight: float
    data: bytes
    moved: Floats
    left: Floats
    held: int
    root: bytes
    sent_s: float
    term: int

    def message(self, site: str, term: int, codec: Codec) -> Message:
        """As an update in a term; `codec` is what made `data`."""
        fields: dict[str, object] = {
            "start": self.start,
            "stop": self.stop,
            "weight": self.weight,
            "held": self.held,
            "root": self.root.hex(),
        }
        tensors = [codec.pack("update", self.data)]
        if self.moved.size:
            tensors.append(Packed.raw("buffers", self.moved))
        return Message(Kind.UPDATE, site, self.round, term, fields, tuple(tensors))


HEAL_BYTES = 16 * 2**20
"""Fragments that one message carries; a longer remedy takes several."""


def tree_of(tree: list[bytes]) -> Packed:
    """The digests of all fragments as a tensor of a message."""
    return Packed("tree", "uint8", (32 * len(tree),), b"".join(tree))


def odd_of(message: Message) -> set[str]:
    """The sites whose state a commit calls odd."""
    try:
        return set(message.tensor("odd").data.decode().split("\n"))
    except UnicodeDecodeError:
        raise Refused("malformed", "the list of odd sites is not UTF-8") from None
