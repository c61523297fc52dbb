"""A fingerprint of the state: one SHA-256 per fragment, one over those, and who holds another one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8

_WORTH_A_THREAD = 2**20


def leaves(state: Mapping[str, Tensor] | Mapping[str, NDArray[np.generic]], threads: int = 1) -> list[bytes]:
    """One digest per fragment, in order, over its name, dtype, shape and bytes.

    All bytes are read every time: what a flipped bit changed is just what no list of changes knows.

    Args:
        state: contiguous CPU tensors or arrays by name.
        threads: that hash large states side by side; hashing leaves other Python threads free to run.

    Returns:
        32 bytes each. Two fragments share a digest only when they agree in every bit: 0.0 and -0.0 do not.
    """
    if threads > 1 and sum(each.nbytes for each in state.values()) >= _WORTH_A_THREAD:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(_leaf, state, state.values()))
    return [_leaf(name, each) for name, each in state.items()]


def root(digests: Sequence[bytes]) -> bytes:
    """The digest over all fragments, 32 bytes."""
    return hashlib.sha256(b"clisonix tide state 1\n" + b"".join(digests)).digest()


@dataclass(frozen=True)
class Verdict:
    """What a comparison of digests says.

    Attributes:
        root: what more than half hold; None where nothing is.
        odd: who holds something else, in the order given.
    """

    root: bytes | None
    odd: tuple[str, ...]


def vote(roots: Mapping[str, bytes]) -> Verdict:
    """Which digest has a majority, and who differs from it."""
    if not roots:
        return Verdict(None, ())
    winner, votes = Counter(roots.values()).most_common(1)[0]
    if votes * 2 <= len(roots):
        return Verdict(None, tuple(roots))
    return Verdict(winner, tuple(name for name, each in roots.items() if each != winner))


def differing(tree: Sequence[bytes], other: Sequence[bytes]) -> list[int]:
    """The fragments whose digests differ."""
    return [index for index, (a, b) in enumerate(zip(tree, other, strict=True)) if a != b]


def _leaf(name: str, fragment: Tensor | NDArray[np.generic]) -> bytes:
    digest = hashlib.sha256(_header(name, str(fragment.dtype), tuple(fragment.shape)))
    if isinstance(fragment, Tensor):
        digest.update(fragment.view(-1).view(uint8).numpy().data)
    else:
        digest.update(fragment.data)
    return digest.digest()


@lru_cache(maxsize=65536)
def _header(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    return json.dumps([name, dtype.removeprefix("torch."), list(shape)]).encode() + b"\n"
