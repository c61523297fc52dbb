"""Who is in the group, and the few things its members say to each other: bytes, in rank order.

Only tensors of bytes travel. Nothing is pickled, so a damaged or hostile peer can send wrong numbers
but never code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from clisonix.errors import ClisonixError

_COMPLAINT_BYTES = 512


@dataclass
class Nodes:
    """The members of a group, seen from one of them. Every method is a collective: all members call it.

    Attributes:
        rank: this node's rank within the group.
        size: how many nodes there are; 1 means that nothing is ever sent.
        sent_bytes: payload this node has handed over so far, counted once for each receiving node; framing
            and retransmission by the transport are not in it.
    """

    rank: int = 0
    size: int = 1
    sent_bytes: int = 0
    _group: dist.ProcessGroup | None = None
    _release: Callable[[], None] | None = None

    def gather(self, payload: Tensor) -> list[Tensor]:
        """Every node's payload, in rank order.

        Args:
            payload: (bytes,) uint8 on the CPU, equally long on all nodes.
        """
        if self.size == 1:
            return [payload]
        received = [torch.empty_like(payload) for _ in range(self.size)]
        with _network_errors():
            dist.all_gather(received, payload, group=self._group)
        self.sent_bytes += payload.numel() * (self.size - 1)
        return received

    def broadcast(self, payload: Tensor, source: int) -> None:
        """Overwrite `payload`, (bytes,) uint8 on the CPU, with that of rank `source`."""
        if self.size == 1:
            return
        with _network_errors():
            dist.broadcast(payload, group=self._group, group_src=source)
        if self.rank == source:
            self.sent_bytes += payload.numel() * (self.size - 1)

    def broadcast_text(self, text: str) -> str:
        """The text that rank 0 gave."""
        content = to_bytes(text)
        length = torch.tensor([content.numel()]).view(torch.uint8)
        self.broadcast(length, 0)
        if self.rank != 0:
            content = torch.empty(int(length.view(torch.int64)), dtype=torch.uint8)
        self.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def all_well(self, complaint: str | None) -> None:
        """Go on only when no node has a complaint.

        A node that raised alone would leave the others waiting for it; here all of them raise the same.

        Raises:
            ClisonixError: on every node, naming the ranks that complained and what the first one said.
        """
        said = torch.zeros(_COMPLAINT_BYTES, dtype=torch.uint8)
        content = to_bytes(complaint or "")[:_COMPLAINT_BYTES]
        said[: content.numel()] = content
        heard = [bytes(each.tolist()).rstrip(b"\0").decode(errors="ignore") for each in self.gather(said)]
        ranks = [rank for rank, text in enumerate(heard) if text]
        if ranks:
            raise ClisonixError(f"{ranks_of(ranks)}: {heard[ranks[0]]}")

    def close(self, *, orderly: bool = True) -> None:
        """Give back the group if it was made here.

        Args:
            orderly: wait for the other nodes first, since a node that leaves early aborts their last exchange.
        """
        release, self._release = self._release, None
        if release is None:
            return
        try:
            if orderly and self.size > 1:
                with _network_errors():
                    dist.barrier(group=self._group)
        finally:
            release()


def find_nodes(group: dist.ProcessGroup | None = None) -> Nodes:
    """The nodes of `group`, or of the default group, or this process alone when there is none.

    A group that cannot carry CPU tensors (plain NCCL) gets a gloo companion over the same ranks, since the
    outer state lives in host memory.

    Raises:
        ClisonixError: this process is not a member of `group`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if group is not None:
            raise ClisonixError("a group was given, but torch.distributed is not initialised: initialise it first")
        return Nodes()
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise ClisonixError("this process is not a member of the group it was given: join only on its members")
    if "cpu:" in str(dist.get_backend_config(group)):
        return Nodes(rank=rank, size=size, _group=group)
    companion = dist.new_group(dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True)
    return Nodes(rank=rank, size=size, _group=companion, _release=lambda: dist.destroy_process_group(companion))


def join_nodes(group: dist.ProcessGroup | None = None) -> Nodes:
    """As `find_nodes`, but under torchrun a default group is made first, and given back by `close`.

    The addresses and ranks come from torchrun's variables, read by torch's own `env://`.
    """
    launched = dist.is_available() and dist.is_torchelastic_launched()
    if group is not None or not launched or dist.is_initialized():
        return find_nodes(group)
    with _network_errors():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo",
            init_method="env://",
        )
    nodes = find_nodes()
    nodes._release = dist.destroy_process_group
    return nodes


def to_bytes(text: str) -> Tensor:
    """UTF-8 of a text as a (bytes,) uint8 tensor."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def ranks_of(ranks: list[int]) -> str:
    """`rank 2`, or `ranks 0, 1 and 4`."""
    words = [str(rank) for rank in ranks]
    return f"rank {words[0]}" if len(words) == 1 else f"ranks {', '.join(words[:-1])} and {words[-1]}"


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClisonixError(
            f"the exchange with the other nodes failed ({reason}), so a node has probably gone away: "
            "restart all nodes from one checkpoint"
        ) from error
