"""The engine for sites that only connect outwards, to a coordinator that a majority of them makes trustworthy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.tide.flat import Flat
from clisonix.tide.interface import Engine, SyncReport
from clisonix.tide.net.link import Link
from clisonix.tide.net.settings import SiteSettings
from clisonix.tide.replica import Replica
from clisonix.tide.site import Site, Work

T = TypeVar("T")


@dataclass(frozen=True)
class SiteReport(SyncReport):
    """What one sync did and cost at a site.

    Attributes:
        bytes_received: from the socket, likewise.
        waited_s: the part of `seconds` that the training waited for the coordinator and the other sites.
        used: did the group use what this site handed in? Otherwise its windows come again.
        window: of this site's stream to go on with.
        damaged: how often this site has found a flipped bit in its state so far, which was healed.
    """

    bytes_received: int
    waited_s: float
    used: bool
    window: int
    damaged: int


class SiteEngine(Engine):
    """Takes part in a training over many sites; see `TideEngine.join` with `engine: sites`.

    Joining waits until the group has taken this site in and then overwrites the model with the agreed state. All
    floating tensors are shared, integer buffers stay as the site built them. The inner optimiser's state is local.

    ```python
    with TideEngine.join(model, {"engine": "sites", "site": "north", ...}) as tide:
        for batch in tide.follow(batches_from):
            loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            tide.step()
            if tide.over:
                break
    ```

    Args:
        model: whole, unsharded, alike at all sites.
        settings: of this site.

    Raises:
        ClisonixError: a setting is out of range, the coordinator will not have this site, or nothing is heard of it.
    """

    def __init__(self, model: nn.Module, settings: SiteSettings | Mapping[str, Any]) -> None:
        self.settings = SiteSettings.of(settings)
        self._flat = Flat(model)
        # What the site holds already need not be sent to it.
        replica = Replica(self._flat.schema, self.settings.rules, self._flat.read())
        self._link = Link(Site(self.settings.site, replica), self.settings)
        self._steps = self._windows = self._jumps = 0
        self._used_bytes = (0, 0)
        self._open = True
        try:
            self._work = self._begin(self._link.next_work())
        except BaseException:
            self.close()
            raise

    @property
    def over(self) -> bool:
        """Have all rounds been done? The model then holds the last agreed state."""
        return self._work is None

    @property
    def window(self) -> int:
        """The window of this site's stream with which to go on."""
        return 0 if self._work is None else self._work.start + self._windows

    @property
    def round(self) -> int:
        """How many outer steps the agreed state has taken."""
        return self._link.site.replica.round

    def digest(self) -> str:
        """SHA-256 in hex of the state that this site holds."""
        return self._link.site.replica.root().hex()

    def follow(self, stream_from: Callable[[int], Iterable[T]]) -> Iterator[T]:
        """A stream that goes back wherever the group says, so that no window is skipped or counted twice.

        Args:
            stream_from: gives what comes from a window on.

        Yields:
            What the stream gives, until all rounds are done or the stream has ended.
        """
        while self._work is not None:
            jumps, ended = self._jumps, True
            for each in stream_from(self.window):
                yield each
                if self._work is None or self._jumps != jumps:
                    ended = False
                    break
            if ended:
                return

    def step(self, windows: int | None = None) -> SiteReport | None:
        """Call once after each inner optimiser step; every `inner_steps` calls it is a sync.

        Args:
            windows: of the stream that this step used; `windows_per_step` when left out.

        Returns:
            The report when the site exchanged its update, else None.

        Raises:
            ClisonixError: as for `sync`.
        """
        work = self._require_work()
        self._steps += 1
        self._windows += self.settings.windows_per_step if windows is None else windows
        if self._link.site.ticket != work.ticket:
            # The group went on without this site: what it has trained from here leads nowhere.
            return self._exchange(work, hand_in=False)
        return self.sync() if self._steps - self._synced >= self.settings.inner_steps else None

    def sync(self) -> SiteReport:
        """Hand in what was trained, and go on from the state that the group agrees on.

        Raises:
            ClisonixError: a parameter is not finite, the coordinator will not have this site, or nothing was heard
                of it for too long.
        """
        return self._exchange(self._require_work(), hand_in=True)

    def _exchange(self, work: Work, *, hand_in: bool) -> SiteReport:
        begun_s = time.monotonic()
        site, stop = self._link.site, work.start + self._windows
        if hand_in:
            if self._windows < 1:
                raise ClisonixError("a sync needs at least one window: call step after each inner step")
            self._link.hand_in(work, self._flat.read(work.parameters), stop, float(self._windows))
        handed_s = time.monotonic()
        following = self._link.next_work()
        waited_s = time.monotonic() - handed_s
        position = site.cursor if following is None else following.start
        used = hand_in and position == stop
        self._work = self._begin(following)
        self._jumps += not used
        sent, received = self._link.sent_bytes, self._link.received_bytes
        report = SiteReport(
            step=self._steps,
            sync=site.replica.round,
            digest=site.agreed(),
            bytes_sent=sent - self._used_bytes[0],
            seconds=time.monotonic() - begun_s,
            healed={},
            bytes_received=received - self._used_bytes[1],
            waited_s=waited_s,
            used=used,
            window=position,
            damaged=site.damaged,
        )
        self._used_bytes = (sent, received)
        return report

    def _begin(self, work: Work | None) -> Work | None:
        self._flat.write(self._link.site.replica.outer if work is None else work.parameters)
        self._windows, self._synced = 0, self._steps
        return work

    def state_dict(self) -> dict[str, Tensor]:
        """The agreed state, what error feedback has left over, and this site's counters, as CPU tensors."""
        site = self._link.site
        return {
            "outer": torch.from_numpy(site.replica.outer.copy()),
            "momentum": torch.from_numpy(site.replica.momentum.copy()),
            "residual": torch.from_numpy(site.feedback.residual.copy()),
            "round": torch.tensor(site.replica.round),
            "steps": torch.tensor(self._steps),
            "window": torch.tensor(self.window),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back the error feedback and the count of steps; the rest is the group's, which says where it stands.

        Raises:
            ClisonixError: the state is of another model.
        """
        feedback = self._link.site.feedback
        residual = state.get("residual")
        if residual is None or residual.shape != feedback.residual.shape:
            raise ClisonixError("the state given is not one that SiteEngine saved for this model")
        feedback.residual = residual.numpy().astype("float32", copy=True)
        self._synced += int(state["steps"]) - self._steps
        self._steps = int(state["steps"])

    def leave(self, timeout_s: float = 60.0) -> bool:
        """Say goodbye for good: sync once more, and go when the group has agreed.

        Returns:
            False when it has not agreed in time; the others then strike this site off as silent.
        """
        work = self._require_work()
        self._link.leave()
        if self._windows:
            self._link.hand_in(work, self._flat.read(work.parameters), work.start + self._windows, self._windows)
        end_s = time.monotonic() + timeout_s
        while not self._link.site.left and time.monotonic() < end_s:
            time.sleep(0.02)
        left = self._link.site.left
        self.close()
        return left

    def close(self) -> None:
        """Hang up. The others go on without this site until it comes again."""
        if self._open:
            self._open = False
            self._link.close(finished=getattr(self, "_work", None) is None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._open and self._work is not None and self.settings.rounds is None:
            self.leave()
        self.close()

    def _require_work(self) -> Work:
        if not self._open:
            raise ClisonixError("this site has left its group: join again to go on")
        if self._work is None:
            raise ClisonixError("all rounds are done: leave the loop when `over` is true")
        return self._work
