"""What a training loop needs of any engine, whatever carries the messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class SyncReport:
    """What one sync did and cost, seen from one node.

    Attributes:
        step: how often `step` had been called on this node.
        sync: the number of this sync, from 1.
        digest: SHA-256 in hex of the state all nodes hold now.
        bytes_sent: what this node sent. Cluster: payload, counted once for each receiving node, without framing.
            Sites: what went into the socket, with framing, signs of life and what was sent again, but without what
            TLS and TCP add.
        seconds: wall-clock time of the sync on this node, waiting for slower nodes included.
        healed: cluster: for each rank that held another state, the first fragment in which it differed.
    """

    step: int
    sync: int
    digest: str
    bytes_sent: int
    seconds: float
    healed: dict[int, str]


class Engine(ABC):
    """Keeps a model on one state with that of other nodes; a context manager."""

    @abstractmethod
    def step(self) -> SyncReport | None:
        """Call once after each inner optimiser step; the report when it was a sync, else None."""

    @abstractmethod
    def sync(self) -> SyncReport:
        """Meet now; the local weights become the new shared ones."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The agreed state and this node's counters, as plain CPU tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved state."""

    @abstractmethod
    def close(self) -> None:
        """Leave without another sync."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
