"""What a codec left out is added to the next update."""

from __future__ import annotations

import numpy as np

from clisonix.tide.codecs.bits import Floats
from clisonix.tide.codecs.codec import Codec


class Feedback:
    """Error feedback (Karimireddy et al. 2019, arXiv 1901.09847) that can be taken back.

    An update that the group did not use must leave no trace here, so what would be left over is handed out with the
    bytes and only becomes the residual by `settle`.

    Args:
        codec: that makes the bytes.
        decay: part of the residual that is carried on; below 1 old errors fade.
    """

    def __init__(self, codec: Codec, decay: float = 1.0) -> None:
        self.codec, self.decay = codec, decay
        self.residual: Floats = np.zeros(codec.size, np.float32)

    def encode(self, vector: Floats, residual: Floats | None = None) -> tuple[bytes, Floats]:
        """The bytes of `vector` and what they leave out, `(size,)`; `residual` replaces this object's own."""
        wanted = vector + (self.residual if residual is None else residual)
        data = self.codec.encode(wanted)
        left = wanted - self.codec.decode(data)
        left *= np.float32(self.decay)
        return data, left

    def settle(self, data: bytes, left: Floats) -> None:
        """The group used these bytes."""
        self.residual = left
        self.codec.absorb(data)

    def replay(self, vector: Floats, data: bytes) -> None:
        """As `encode` and `settle`, with bytes that were sent before."""
        left = vector + self.residual
        left -= self.codec.decode(data)
        left *= np.float32(self.decay)
        self.settle(data, left)
