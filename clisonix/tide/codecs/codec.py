"""What every codec of updates does, and the settings that choose one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from clisonix.errors import ClisonixError, nearest
from clisonix.tide.codecs.bits import Floats
from clisonix.tide.message import Packed, Refused

CHUNK = 4096
"""Entries that share their scales."""


@dataclass(frozen=True)
class CodecSettings:
    """How updates travel.

    Args:
        form: `dense` (float32), `short` (bfloat16), `sparse`, `binary`, `ternary` or `lowrank`.
        density: sparse: the part of all entries that is sent.
        bits: sparse: of each value, sign included, 1 to 8; lowrank: of each entry of a factor, 2 to 8, or 16.
        rank: lowrank: columns of each factor.

    Raises:
        ClisonixError: a value is unknown or out of range.
    """

    form: str = "sparse"
    density: float = 0.03
    bits: int = 2
    rank: int = 4

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ClisonixError(f"there is no codec {self.form!r}{nearest(self.form, FORMS)}")
        if not 0 < self.density <= 1:
            raise ClisonixError(f"density is {self.density!r}, but it must be above 0 and at most 1: try 0.03")
        few = range(2, 9) if self.form == "lowrank" else range(1, 9)
        if self.bits not in few and not (self.form == "lowrank" and self.bits == 16):
            raise ClisonixError(f"bits is {self.bits!r}, but a {self.form} codec sends {few.start} to 8: try 2 or 4")
        if self.rank < 1:
            raise ClisonixError(f"rank is {self.rank!r}, but it must be 1 or more: try 4")

    @classmethod
    def of(cls, given: CodecSettings | Mapping[str, object] | str | None) -> CodecSettings:
        """From an object, a mapping, the name of a form, or None for the default."""
        if isinstance(given, CodecSettings):
            return given
        named = {"form": given} if isinstance(given, str) else dict[str, Any](given or {})
        valid = [each.name for each in fields(cls)]
        for key in named:
            if key not in valid:
                raise ClisonixError(f"a codec has no setting {key!r}{nearest(key, valid)}")
        return cls(**named)


FORMS = ("dense", "short", "sparse", "binary", "ternary", "lowrank")


class Codec(ABC):
    """Turns a float32 vector, which is tensors of known shapes laid end to end, into bytes and back.

    Decoding uses elementwise IEEE operations in a fixed order or integers, so all nodes get the same bits. Encoding
    may differ from one machine to the next: what counts is what was sent.

    Args:
        shapes: of the tensors.
    """

    ident: int

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.size = sum(math.prod(shape) for shape in self.shapes)

    @abstractmethod
    def encode(self, vector: Floats) -> bytes:
        """`(size,)` as bytes."""

    @abstractmethod
    def _decode(self, data: bytes) -> Floats:
        """The vector; may raise ValueError on bytes that no encoder makes."""

    def absorb(self, data: bytes) -> None:  # noqa: B027 - most codecs learn nothing
        """Note what was sent last, for codecs that start from it."""

    def memory(self) -> list[Floats]:
        """What `absorb` has noted, to be kept and given to `recall`."""
        return []

    def recall(self, memory: list[Floats]) -> None:  # noqa: B027 - most codecs remember nothing
        """Go on as the codec that had this memory."""

    def decode(self, data: bytes) -> Floats:
        """The vector `(size,)` that `encode` meant.

        Raises:
            Refused: these bytes come from no encoder for these shapes.
        """
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                vector = self._decode(data)
        except (ValueError, IndexError, OverflowError) as error:
            raise Refused("malformed", f"an update of {len(data)} bytes cannot be decoded ({error})") from error
        if not np.isfinite(vector).all():
            raise Refused("malformed", "an update holds a value that is not finite")
        return vector

    def pack(self, name: str, data: bytes) -> Packed:
        """The bytes as a tensor of a message."""
        return Packed(name, "float32", (self.size,), data, self.ident)

    def unpack(self, packed: Packed) -> Floats:
        """The vector of a tensor of a message.

        Raises:
            Refused: it is in another codec, of another size, or damaged.
        """
        if packed.codec != self.ident or packed.shape != (self.size,):
            raise Refused(
                "malformed",
                f"{packed.name!r} came in codec {packed.codec} with shape {packed.shape}, but codec {self.ident} "
                f"with shape ({self.size},) was agreed",
            )
        return self.decode(packed.data)


def need(data: bytes, length: int) -> None:
    """Refuse a payload of another length."""
    if len(data) != length:
        raise ValueError(f"{length} bytes are needed")


def chunked(vector: Floats) -> Floats:
    """`(chunks, CHUNK)`, padded with zeros; a vector shorter than a chunk is one of its own length."""
    width = min(CHUNK, max(len(vector), 1))
    rows = -(-len(vector) // width)
    if rows * width == len(vector):
        return vector.reshape(rows, width)
    padded = np.zeros(rows * width, np.float32)
    padded[: len(vector)] = vector
    return padded.reshape(rows, width)
