"""Move many tensors through few messages of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.tide.nodes import Nodes
from clisonix.tide.shared import real_view

BUCKET_BYTES = 4 * 2**20
"""Payload of one message. A node holds one such message per member at a time, whatever the model weighs."""


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of the flattened tensor `name`."""

    name: str
    start: int
    stop: int


def buckets(tensors: Mapping[str, Tensor], bucket_bytes: int = BUCKET_BYTES) -> Iterator[list[Piece]]:
    """Cut real tensors into pieces and group them, in order, into messages of at most `bucket_bytes`."""
    bucket: list[Piece] = []
    room = bucket_bytes
    for name, tensor in tensors.items():
        start = 0
        while start < tensor.numel():
            fits = room // tensor.element_size()
            if fits == 0:
                yield bucket
                bucket, room = [], bucket_bytes
                continue
            stop = min(tensor.numel(), start + fits)
            bucket.append(Piece(name, start, stop))
            room -= (stop - start) * tensor.element_size()
            start = stop
    if bucket:
        yield bucket


def average(
    nodes: Nodes, tensors: Mapping[str, Tensor], bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[Piece, Tensor]]:
    """The mean over all nodes, piece by piece, bitwise the same on each of them.

    Every node gathers what all nodes hold and adds it up itself, in rank order, in float64, on the CPU. A
    ring or tree all-reduce would move fewer bytes, but its order of additions, and so its last bits, depend
    on the transport.

    Args:
        nodes: the group.
        tensors: floating or complex tensors, alike on all nodes, on any device.
        bucket_bytes: largest message.

    Yields:
        A piece and its mean, (elements,) float64 on the CPU; complex tensors count as (..., 2) real ones.
    """
    flat = {name: real_view(tensor).reshape(-1) for name, tensor in tensors.items()}
    for bucket in buckets(flat, bucket_bytes):
        received = nodes.gather(_pack(flat, bucket))
        totals = [torch.zeros(piece.stop - piece.start, dtype=torch.float64) for piece in bucket]
        for payload in received:
            for total, part in zip(totals, _unpack(flat, bucket, payload), strict=True):
                total += part.to(torch.float64)
        for piece, total in zip(bucket, totals, strict=True):
            yield piece, total / nodes.size


def spread(nodes: Nodes, tensors: Mapping[str, Tensor], source: int, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Overwrite real, contiguous CPU tensors with those of rank `source`, bit for bit."""
    flat = {name: tensor.view(-1) for name, tensor in tensors.items()}
    for bucket in buckets(flat, bucket_bytes):
        payload = _pack(flat, bucket)
        nodes.broadcast(payload, source)
        if nodes.rank != source:
            for piece, part in zip(bucket, _unpack(flat, bucket, payload), strict=True):
                flat[piece.name][piece.start : piece.stop] = part


def _pack(flat: Mapping[str, Tensor], bucket: list[Piece]) -> Tensor:
    return torch.cat([flat[p.name][p.start : p.stop].cpu().view(torch.uint8) for p in bucket])


def _unpack(flat: Mapping[str, Tensor], bucket: list[Piece], payload: Tensor) -> Iterator[Tensor]:
    begin = 0
    for piece in bucket:
        like = flat[piece.name]
        end = begin + (piece.stop - piece.start) * like.element_size()
        # The clone starts at offset 0: after an odd number of bytes a wider dtype could not be viewed in place.
        yield payload[begin:end].clone().view(like.dtype)
        begin = end
