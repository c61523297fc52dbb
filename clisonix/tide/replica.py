"""The agreed state as every node holds it, and what a commit makes of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clisonix.errors import ClisonixError
from clisonix.tide import digest
from clisonix.tide.codecs import Codec, CodecSettings, make_codec
from clisonix.tide.message import Message, Packed, Refused
from clisonix.tide.outer import nesterov_
from clisonix.tide.roll import Roll

FRAGMENT = 2**20
"""Entries that share a digest and are healed together."""


@dataclass(frozen=True)
class Rules:
    """What all nodes of a training must share.

    Args:
        outer_lr: of the outer Nesterov step.
        outer_momentum: of the outer Nesterov step.
        up: codec of what a site sends.
        down: codec of what all sites receive.
        min_sites: the first round waits for so many.
        timeout_s: a round waits so long for sites that are silent, once a majority has answered.
        patience: rounds a site may miss in a row before it is struck off.
        resend_s: after which an unanswered message is sent again.
        overlap: sites go on training while their update travels; it takes effect one round later.
        feedback_decay: part of what a codec left out that is carried to the next update.
    """

    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    up: CodecSettings = field(default_factory=CodecSettings)
    down: CodecSettings = field(default_factory=CodecSettings)
    min_sites: int = 1
    timeout_s: float = 60.0
    patience: int = 3
    resend_s: float = 10.0
    overlap: bool = False
    feedback_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("outer_lr", "timeout_s", "resend_s", "min_sites", "patience"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ClisonixError(f"{name} is {value!r}, but it must be above 0")
        for name in ("outer_momentum", "feedback_decay"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "outer_momentum" and value == 1):
                raise ClisonixError(f"{name} is {value!r}, but it must be in [0, 1]: try 0.9")

    @property
    def lag(self) -> int:
        """Rounds between an update and the state that it changes."""
        return 1 if self.overlap else 0


class Schema:
    """Names and shapes of the tensors that lie end to end in a replica: trained ones, then averaged ones.

    Args:
        trained: shapes of what the outer optimiser steps.
        averaged: shapes of what is only averaged, such as batch statistics; sent in float32.
    """

    def __init__(
        self, trained: Mapping[str, Sequence[int]], averaged: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.trained = {name: tuple(shape) for name, shape in trained.items()}
        self.averaged = {name: tuple(shape) for name, shape in (averaged or {}).items()}
        self.trained_size = sum(math.prod(shape) for shape in self.trained.values())
        self.size = self.trained_size + sum(math.prod(shape) for shape in self.averaged.values())
        self.spans: list[tuple[str, int, int]] = []
        at = 0
        for name, shape in [*self.trained.items(), *self.averaged.items()]:
            end = at + math.prod(shape)
            for begin in range(at, end, FRAGMENT):
                part = f"{name}[{begin - at}]" if end - at > FRAGMENT else name
                self.spans.append((part, begin, min(end, begin + FRAGMENT)))
            at = end

    def codec(self, settings: CodecSettings) -> Codec:
        """For the trained part."""
        return make_codec(settings, list(self.trained.values()))


class Replica:
    """Outer parameters and momentum, the round they belong to, and who votes.

    Args:
        schema: of the model.
        rules: of the training.
        start: the parameters at the beginning, `(size,)` float32; zeros where they will be received.
    """

    def __init__(self, schema: Schema, rules: Rules, start: NDArray[np.float32] | None = None) -> None:
        self.schema, self.rules = schema, rules
        self.outer = np.zeros(schema.size, np.float32) if start is None else np.array(start, np.float32)
        self.momentum = np.zeros(schema.trained_size, np.float32)
        if self.outer.shape != (schema.size,):
            raise ClisonixError(f"the start has {self.outer.shape} values, but the model has {schema.size}")
        self.round = 0
        self.term = 0
        self.roll = Roll()
        self._down = schema.codec(rules.down)
        self._fragments: dict[str, NDArray[np.float32]] = {}

    def fragments(self) -> dict[str, NDArray[np.float32]]:
        """Views of the state by fragment."""
        if not self._fragments:
            self._fragments = {f"outer/{name}": self.outer[a:b] for name, a, b in self.schema.spans}
            self._fragments.update(
                {
                    f"momentum/{name}": self.momentum[a:b]
                    for name, a, b in self.schema.spans
                    if b <= self.schema.trained_size
                }
            )
        return self._fragments

    def tree(self) -> list[bytes]:
        """The digest of each fragment."""
        return digest.leaves(self.fragments(), threads=2)

    def root(self, tree: Sequence[bytes] | None = None) -> bytes:
        """The digest of everything: fragments, round and roll."""
        leaves = self.tree() if tree is None else list(tree)
        return digest.root([*leaves, self.round.to_bytes(8, "little"), self.roll.fingerprint()])

    def apply(self, commit: Message) -> None:
        """Take the outer step of a commit.

        Raises:
            Refused: it is for another round or cannot be decoded; the state is then unchanged.
        """
        if commit.round != self.round:
            raise Refused("malformed", f"a commit of round {commit.round} came in round {self.round}")
        gradient = self._down.unpack(commit.tensor("update"))
        moved = buffers_of(commit, self.schema)
        self.roll.check(commit)
        trained = self.schema.trained_size
        nesterov_(self.outer[:trained], self.momentum, gradient, self.rules.outer_lr, self.rules.outer_momentum)
        self.outer[trained:] -= moved
        self.round += 1
        self.term = commit.term
        self.roll.take(commit, self.rules.lag)

    def heal_with(self, message: Message) -> None:
        """Overwrite fragments with those of a message, and adopt its round, term and roll."""
        fragments = self.fragments()
        given = [each for each in message.tensors if not each.name.startswith("roll/")]
        for each in given:
            mine = fragments.get(each.name)
            if mine is None or each.dtype != "float32" or each.shape != mine.shape:
                raise Refused("malformed", f"{each.name!r} came for healing, but this model has no such fragment")
        self.roll.adopt(message)
        for each in given:
            fragments[each.name][:] = each.array()
        self.round, self.term = message.round, message.number("held_term")

    def position(self, root: bytes) -> dict[str, object]:
        """The fields that say which state this is: who is on the roll, and in which term it was committed."""
        return {"root": root.hex(), "names": list(self.roll.names), "held_term": max(self.term, 0)}

    def remedy(self, tree: bytes, mine: Sequence[bytes], limit: int) -> tuple[Packed, ...]:
        """The fragments in which a node with this tree differs from `mine`: as many as fit `limit` bytes, or one.

        Raises:
            Refused: the tree is of another model.
        """
        if len(tree) != 32 * len(mine):
            raise Refused("malformed", f"a tree of {len(tree)} bytes came, but this model's has {32 * len(mine)}")
        theirs = [tree[at : at + 32] for at in range(0, len(tree), 32)]
        names, room = list(self.fragments()), limit
        parts: list[Packed] = []
        for index in digest.differing(mine, theirs):
            fragment = self.fragments()[names[index]]
            room -= fragment.nbytes
            if parts and room < 0:
                break
            parts.append(Packed.raw(names[index], fragment))
        return tuple(parts)

    def copy(self) -> Replica:
        """Another one in the same state."""
        other = Replica(self.schema, self.rules, self.outer)
        other.momentum[:] = self.momentum
        other.round, other.term, other.roll = self.round, self.term, copy.deepcopy(self.roll)
        return other


def buffers_of(message: Message, schema: Schema) -> NDArray[np.float32]:
    """How far the averaged tensors moved, `(size - trained_size,)`.

    Raises:
        Refused: they are missing or not finite.
    """
    number = schema.size - schema.trained_size
    if number == 0:
        return np.zeros(0, np.float32)
    moved = message.tensor("buffers").array()
    if moved.shape != (number,) or moved.dtype != np.float32 or not np.isfinite(moved).all():
        raise Refused("malformed", f"the averaged tensors of {message.sender!r} are not {number} finite numbers")
    return moved  # type: ignore[return-value]  # just checked
