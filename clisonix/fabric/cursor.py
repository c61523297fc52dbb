"""Where in the order an iteration is: a few numbers that mean the same on any number of ranks and threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from clisonix.errors import ClisonixError

_SCHEMA = 2


@dataclass(frozen=True)
class Cursor:
    """A place in the order.

    Attributes:
        epoch: which order.
        position: windows of it that are done, on all ranks together.
        worker: in a worker process of a `DataLoader` alone: which worker, of how many, and how many of its own steps
            from `position` on are done. Nobody knows there what the other workers have done.
    """

    epoch: int = 0
    position: int = 0
    worker: tuple[int, int, int] | None = None

    def to_state(self, fits: Mapping[str, Any]) -> dict[str, Any]:
        """Plain JSON, a few hundred bytes.

        Args:
            fits: what the order is a function of: a cursor means nothing elsewhere.
        """
        state = {"schema": _SCHEMA, "epoch": self.epoch, "position": self.position, **fits}
        return state if self.worker is None else {**state, "worker": list(self.worker)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], fits: Mapping[str, Any]) -> Cursor:
        """Read a cursor.

        Raises:
            ClisonixError: it belongs to other recordings, windows or another order, or to a worker that is not this.
        """
        if state.get("schema") not in (1, _SCHEMA):
            raise ClisonixError("the stream cursor does not fit this fabric: schema differs")
        for key, value in fits.items():
            if state.get(key) != value:
                what = "the recordings or windows have changed" if key == "table" else f"{key} differs"
                raise ClisonixError(f"the stream cursor does not fit this fabric: {what}")
        epoch, position = int(state["epoch"]), int(state["position"])
        if state["schema"] == 1:  # counted batches, of one rank
            return cls(epoch, position * (state.get("batch_size") or 1))
        worker = state.get("worker")
        if worker is None:
            return cls(epoch, position)
        here = get_worker_info()
        if here is None or [here.id, here.num_workers] != list(worker[:2]):
            raise ClisonixError(
                f"the stream cursor was taken inside worker {worker[0]} of {worker[1]} and fits only there: keep the "
                "number of workers, or load with clisonix.fabric.Loader, whose cursor fits any number of threads"
            )
        return cls(epoch, position, (int(worker[0]), int(worker[1]), int(worker[2])))
