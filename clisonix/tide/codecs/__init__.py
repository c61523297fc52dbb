"""Updates in few bytes.

- `CodecSettings`, `make_codec`: choose a codec by its settings.
- `Codec`: what each of them does; `Dense`, `Short`, `Binary`, `Ternary`, `Sparse`, `LowRank` are the forms.
- `Feedback`: error feedback around a codec.
"""

from __future__ import annotations

from collections.abc import Sequence

from clisonix.tide.codecs.codec import Codec, CodecSettings
from clisonix.tide.codecs.feedback import Feedback
from clisonix.tide.codecs.lowrank import LowRank
from clisonix.tide.codecs.plain import Binary, Dense, Short, Ternary
from clisonix.tide.codecs.sparse import Sparse

__all__ = [
    "Binary",
    "Codec",
    "CodecSettings",
    "Dense",
    "Feedback",
    "LowRank",
    "Short",
    "Sparse",
    "Ternary",
    "make_codec",
]


def make_codec(settings: CodecSettings, shapes: Sequence[tuple[int, ...]]) -> Codec:
    """The codec for tensors of these shapes."""
    if settings.form == "sparse":
        return Sparse(shapes, settings.density, settings.bits)
    if settings.form == "lowrank":
        return LowRank(shapes, settings.rank, settings.bits)
    plain: dict[str, type[Codec]] = {"dense": Dense, "short": Short, "binary": Binary, "ternary": Ternary}
    return plain[settings.form](shapes)
