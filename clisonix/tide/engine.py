"""The engine: local steps, then a meeting of all nodes that leaves them on one verified state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clisonix.errors import ClisonixError, nearest
from clisonix.tide.collective import outer_step
from clisonix.tide.interface import Engine, SyncReport
from clisonix.tide.meeting import first_difference, meet
from clisonix.tide.net.settings import SiteSettings
from clisonix.tide.nodes import Nodes, find_nodes, join_nodes
from clisonix.tide.settings import TideSettings
from clisonix.tide.shared import Shared, State, host_copy, initial_state, shared_tensors, write_into
from clisonix.tide.sites import SiteEngine
from clisonix.tide.verify import agree

ENGINES = ("cluster", "sites")


class TideEngine(Engine):
    """Keeps the same model on several nodes on one verified state.

    Each node trains on its own data with its own optimiser. Every `inner_steps` calls of `step`, which all
    nodes must call equally often, they meet: they prove that the state they carry is the same, take one
    DiLoCo outer step, prove that the result is the same, and continue from it. A node found with another
    state is named and given the majority's; without a majority every node stops. The inner optimiser's
    state stays local. Of the buffers that the model saves, floating ones are averaged and integer ones are
    rank 0's.

    ```python
    with TideEngine.join(model, inner_steps=50) as tide:
        for batch in batches:
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            tide.step()
    ```

    Constructing one is a collective act: every node of the group does it, and all take over rank 0's
    weights. To resume, join, then load the model, the inner optimiser and `load_state_dict`.

    Args:
        model: whole, unsharded, on any device; alike on all nodes.
        group: the nodes; the default group if there is one, else this process alone.
        inner_steps: local steps between two syncs.
        outer_lr: learning rate of the outer step.
        outer_momentum: Nesterov momentum of the outer step.

    Raises:
        ClisonixError: a setting is out of range, or the models or settings of the nodes differ.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        group: dist.ProcessGroup | None = None,
        inner_steps: int = 100,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.9,
    ) -> None:
        settings = TideSettings(inner_steps, outer_lr, outer_momentum)
        self._begin(model, settings, find_nodes(group))

    @classmethod
    def join(
        cls,
        model: nn.Module,
        settings: TideSettings | SiteSettings | Mapping[str, Any] | None = None,
        *,
        group: dist.ProcessGroup | None = None,
        **changes: Any,  # noqa: ANN401 - any setting
    ) -> Self | SiteEngine:
        """Join the group this process was started in; use as a context manager.

        Uses `group`, or an initialised default group, or makes one under torchrun; alone otherwise. Leaving
        the block syncs the steps since the last meeting, and takes down only what was made here.

        Args:
            model: as for the class.
            settings: the settings as an object or a mapping. With `engine: sites`, or as `SiteSettings`, they are
                those of a site that connects to a coordinator, and a `SiteEngine` comes back.
            group: the nodes; not for sites.
            **changes: single settings by name, such as `inner_steps=50`.

        Raises:
            ClisonixError: a setting is unknown or out of range, or the models or settings of the nodes differ.
        """
        if isinstance(settings, SiteSettings):
            return SiteEngine(model, replace(settings, **changes))
        named = {**(settings if isinstance(settings, Mapping) else {}), **changes}
        engine = named.pop("engine", "cluster")
        if engine == "sites":
            return SiteEngine(model, named)
        if engine != "cluster":
            raise ClisonixError(f"there is no engine {engine!r}{nearest(str(engine), ENGINES)}")
        checked = TideSettings.of(settings if isinstance(settings, TideSettings) else None, named)
        joined = cls.__new__(cls)
        joined._begin(model, checked, join_nodes(group))
        return joined

    def _begin(self, model: nn.Module, settings: TideSettings, nodes: Nodes) -> None:
        self._model, self.settings, self._nodes = model, settings, nodes
        self._open = True
        self._steps = 0
        self._since_sync = 0
        try:
            shared = meet(nodes, model, settings)
            self._description = shared.describe()
            self._state: State = initial_state(shared)
            agree(nodes, self._state)
        except BaseException:
            self._open = False
            nodes.close(orderly=False)
            raise

    @property
    def rank(self) -> int:
        """This node's rank in the group."""
        return self._nodes.rank

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return self._nodes.size

    def step(self) -> SyncReport | None:
        """Call once after each inner optimiser step; every `inner_steps` calls it is a sync.

        Returns:
            The report when the nodes met, else None.

        Raises:
            ClisonixError: as for `sync`.
        """
        self._require_open()
        self._steps += 1
        self._since_sync += 1
        return self.sync() if self._since_sync >= self.settings.inner_steps else None

    def sync(self) -> SyncReport:
        """Meet now. All nodes must do so; the local weights become the new shared ones.

        Raises:
            ClisonixError: on every node alike when a parameter is not finite, the model was changed, or
                the nodes disagree without a majority; also when a node has gone away. The agreed state is
                then still that of the last sync.
        """
        self._require_open()
        started_s, sent_before = time.monotonic(), self._nodes.sent_bytes
        shared, complaint = self._inspect()
        self._nodes.all_well(complaint)
        assert shared is not None
        # What was carried since the last sync is checked before it is used: a flipped bit in one node's
        # memory would otherwise be blended in, or be lost in rounding and never be noticed.
        _, carried = agree(self._nodes, self._state)
        after = outer_step(self._nodes, shared, self._state, self.settings)
        digest, stepped = agree(self._nodes, after)
        self._state = after
        write_into(shared, after)
        self._since_sync = 0
        return SyncReport(
            step=self._steps,
            sync=int(after["syncs"]),
            digest=digest,
            bytes_sent=self._nodes.sent_bytes - sent_before,
            seconds=time.monotonic() - started_s,
            healed={**stepped, **carried},
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The agreed state and this node's counters, as plain CPU tensors fit for safetensors.

        Not copied: the tensors stay valid until the next sync. The model's own weights are not in it; between
        two syncs they differ from node to node and belong in each node's checkpoint.
        """
        counters = {"steps": torch.tensor(self._steps), "since_sync": torch.tensor(self._since_sync)}
        return {**self._state, **counters}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved state. Whether all nodes loaded the same is checked at the next sync.

        Args:
            state: what `state_dict` gave for the same model.

        Raises:
            ClisonixError: names, shapes or dtypes are not those of this model.
        """
        own = self.state_dict()
        for name in state:
            if name not in own:
                raise ClisonixError(f"the Tide state has {name!r}, which this model has not{nearest(name, own)}")
        for name, tensor in own.items():
            if name not in state:
                raise ClisonixError(f"the Tide state lacks {name!r}: it was saved for another model")
            given = state[name]
            if given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise ClisonixError(
                    f"{name!r} in the Tide state is {given.dtype} {tuple(given.shape)}, but this model needs "
                    f"{tensor.dtype} {tuple(tensor.shape)}: load the state saved for it"
                )
        self._state = {name: host_copy(state[name]) for name in self._state}
        self._steps, self._since_sync = int(state["steps"]), int(state["since_sync"])

    def close(self) -> None:
        """Leave the group without another sync; a group made by `join` is taken down when all have left."""
        self._open = False
        self._nodes.close()

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        orderly = False
        try:
            if kind is None and self._open and self._since_sync:
                self.sync()
            orderly = kind is None
        finally:
            self._open = False
            self._nodes.close(orderly=orderly)

    def _require_open(self) -> None:
        if not self._open:
            raise ClisonixError("this TideEngine has left its group: join again to go on")

    def _inspect(self) -> tuple[Shared | None, str | None]:
        try:
            shared = shared_tensors(self._model)
        except ClisonixError as error:
            return None, str(error)
        changed = first_difference(shared.describe(), self._description)
        if changed:
            mine, joined = changed
            return shared, f"the model was changed after joining (now {mine}, at joining {joined}): join again"
        broken = shared.not_finite()
        if broken:
            return shared, (
                f"parameter {broken!r} holds a value that is not finite, so nothing was shared: lower the "
                "learning rate or mend the data, and go on from the last checkpoint"
            )
        return shared, None
