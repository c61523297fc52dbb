"""Which rank orthogonalises which matrix, and how matrices get there and back.

The iteration needs whole matrices. With parameters sharded by rows over one group of ranks (`fully_shard`), each
matrix is sent to one rank, which does its work alone and sends the rows of the result back: every entry travels
twice and nothing is computed twice. Other layouts are gathered on every rank. Replicated parameters (DDP) are there
already; given a process group, each rank does its share and broadcasts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from clisonix.train.optim.work import is_sharded


class Sharing(Protocol):
    """A way to have some matrices whole where they are worked on."""

    def collect(self, updates: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """The whole update of each matrix that this rank works on, with its index in `updates`."""

    def hand_back(self, results: dict[int, Tensor]) -> dict[int, Tensor]:
        """From what this rank has done to what it holds of all: the entries on this rank, by index."""


def exchanges(parameters: Sequence[Tensor], ranks: Any) -> list[Sharing]:  # noqa: ANN401
    """The ways of sharing that cover `parameters`, each index in exactly one."""
    ways: dict[Any, list[int]] = {}
    for i, parameter in enumerate(parameters):
        if not is_sharded(parameter):
            key: Any = "replicated"
        else:
            mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
            by_rows = len(placements) == 1 and placements[0].is_shard(0) and mesh.size() > 1
            key = ("rows", mesh, parameter.dtype) if by_rows else "gathered"
        ways.setdefault(key, []).append(i)
    found: list[Sharing] = []
    for key, indices in ways.items():
        if key == "replicated":
            alone = ranks is None or dist.get_world_size(ranks) == 1
            found.append(_Here(indices) if alone else _Dealt(parameters, indices, ranks))
        elif key == "gathered":
            found.append(_Gathered(parameters, indices))
        else:
            found.append(_ByRows(parameters, indices))
    return found


class _Here:
    """Everything is on this rank."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def collect(self, updates: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        return [(i, updates[i]) for i in self.indices]

    def hand_back(self, results: dict[int, Tensor]) -> dict[int, Tensor]:
        return results


class _Dealt:
    """Every rank holds everything and does a share."""

    def __init__(self, parameters: Sequence[Tensor], indices: list[int], ranks: Any) -> None:  # noqa: ANN401
        self.indices, self.ranks = indices, ranks
        self.owners = _deal(parameters, indices, dist.get_world_size(ranks))
        self.like: dict[int, Tensor] = {}

    def collect(self, updates: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        self.like = {i: updates[i] for i in self.indices}
        me = dist.get_rank(self.ranks)
        return [(i, updates[i]) for i in self.indices if self.owners[i] == me]

    def hand_back(self, results: dict[int, Tensor]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        # One message for each rank and dtype.
        for rank in range(dist.get_world_size(self.ranks)):
            for dtype in sorted({like.dtype for like in self.like.values()}, key=str):
                theirs = [i for i in self.indices if self.owners[i] == rank and self.like[i].dtype == dtype]
                if not theirs:
                    continue
                sizes = [self.like[i].numel() for i in theirs]
                if results.keys() >= set(theirs):
                    message = torch.cat([results[i].reshape(-1) for i in theirs])
                else:
                    message = self.like[theirs[0]].new_empty(sum(sizes))
                dist.broadcast(message, dist.get_global_rank(self.ranks, rank), group=self.ranks)
                for i, part in zip(theirs, torch.split(message, sizes), strict=True):
                    found[i] = part.view(self.like[i].shape)
        return found


class _Gathered:
    """Sharded in some way; made whole on every rank."""

    def __init__(self, parameters: Sequence[Tensor], indices: list[int]) -> None:
        self.parameters, self.indices = parameters, indices

    def collect(self, updates: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        return [(i, whole(updates[i], self.parameters[i])) for i in self.indices]

    def hand_back(self, results: dict[int, Tensor]) -> dict[int, Tensor]:
        return {i: part(result, self.parameters[i]) for i, result in results.items()}


class _ByRows:
    """Sharded by rows over the ranks of one group: to one owner and back."""

    def __init__(self, parameters: Sequence[Tensor], indices: list[int]) -> None:
        mesh = parameters[indices[0]].device_mesh  # type: ignore[attr-defined]
        self.ranks, self.me, self.world = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self.parameters, self.indices = parameters, indices
        owners = _deal(parameters, indices, self.world)
        self.owned = [[i for i in indices if owners[i] == rank] for rank in range(self.world)]

    def collect(self, updates: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        sent = [updates[i].reshape(-1) for theirs in self.owned for i in theirs]
        mine = self.owned[self.me]
        received = self._send(sent, self._sizes_held(), self._sizes_owned())
        pieces = torch.split(received, [self._size(i, rank) for rank in range(self.world) for i in mine])
        rows = [pieces[rank * len(mine) : (rank + 1) * len(mine)] for rank in range(self.world)]
        return [
            (i, torch.cat([rows[rank][k] for rank in range(self.world)]).view(self.parameters[i].shape))
            for k, i in enumerate(mine)
        ]

    def hand_back(self, results: dict[int, Tensor]) -> dict[int, Tensor]:
        mine = self.owned[self.me]
        shards = {i: torch.split(results[i].reshape(-1), [self._size(i, r) for r in range(self.world)]) for i in mine}
        sent = [shards[i][rank] for rank in range(self.world) for i in mine]
        received = self._send(sent, self._sizes_owned(), self._sizes_held())
        order = [i for theirs in self.owned for i in theirs]
        pieces = torch.split(received, [self._size(i, self.me) for i in order])
        return {i: piece.view(-1, *self.parameters[i].shape[1:]) for i, piece in zip(order, pieces, strict=True)}

    def _send(self, parts: list[Tensor], out: list[int], into: list[int]) -> Tensor:
        first = self.parameters[self.indices[0]]
        dtype = torch.promote_types(first.dtype, torch.float32)
        message = torch.cat([*parts, torch.empty(0, dtype=dtype, device=first.device)])
        received = message.new_empty(sum(into))
        dist.all_to_all_single(received, message, into, out, group=self.ranks)
        return received

    def _sizes_held(self) -> list[int]:
        """Entries that this rank holds of the matrices of each owner."""
        return [sum(self._size(i, self.me) for i in theirs) for theirs in self.owned]

    def _sizes_owned(self) -> list[int]:
        """Entries that each rank holds of the matrices that this rank owns."""
        return [sum(self._size(i, rank) for i in self.owned[self.me]) for rank in range(self.world)]

    def _size(self, i: int, rank: int) -> int:
        """Entries of parameter `i` on a rank: rows are cut as `torch.chunk` cuts them."""
        rows: int = self.parameters[i].shape[0]
        chunk = -(-rows // self.world)
        held: int = max(0, min(chunk, rows - rank * chunk))
        return held * (self.parameters[i].numel() // max(rows, 1))


def whole(entries: Tensor, like: Tensor) -> Tensor:
    """The full tensor whose entries on this rank are `entries`, laid out as `like` is."""
    if not is_sharded(like):
        return entries
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    spread = DTensor.from_local(entries, mesh, placements, shape=like.shape, stride=like.stride())
    return spread.full_tensor()


def part(full: Tensor, like: Tensor) -> Tensor:
    """The entries on this rank of a tensor that every rank holds in full."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    spread = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return spread.redistribute(placements=placements).to_local()


def _deal(parameters: Sequence[Tensor], indices: list[int], ranks: int) -> dict[int, int]:
    """An owner for each, the costliest first to whom has least: the same on every rank."""

    def cost(i: int) -> int:
        rows = max(parameters[i].shape[0], 1)
        return parameters[i].numel() * min(rows, parameters[i].numel() // rows)

    load, owners = [0] * ranks, {}
    for i in sorted(indices, key=lambda i: (-cost(i), i)):
        owner = min(range(ranks), key=lambda rank: (load[rank], rank))
        owners[i] = owner
        load[owner] += cost(i)
    return owners
