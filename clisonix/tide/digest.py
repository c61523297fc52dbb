"""A fingerprint of the state: one SHA-256 per tensor, and one over those."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor


def leaves(state: Mapping[str, Tensor]) -> list[bytes]:
    """One digest per fragment, in order, over its name, dtype, shape and bytes.

    Args:
        state: contiguous CPU tensors by name.

    Returns:
        32 bytes each. Two tensors share a digest only when they agree in every bit: 0.0 and -0.0 do not.
    """
    return [_leaf(name, tensor) for name, tensor in state.items()]


def root(digests: list[bytes]) -> bytes:
    """The digest over all fragments, 32 bytes."""
    return hashlib.sha256(b"clisonix tide state 1\n" + b"".join(digests)).digest()


def _leaf(name: str, tensor: Tensor) -> bytes:
    header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
    digest = hashlib.sha256(header.encode() + b"\n")
    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.digest()
