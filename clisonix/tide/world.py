"""The state machines and messages of production on a network that is made up, in one process.

Everything follows from the seed, so a run that breaks a law can be looked at again.
"""

from __future__ import annotations

import hashlib
import heapq
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.tide.codecs import Feedback
from clisonix.tide.coordinator import Coordinator
from clisonix.tide.invariants import Ledger
from clisonix.tide.journal import read_record, restore
from clisonix.tide.log import Log
from clisonix.tide.message import Kind, Message, Refused
from clisonix.tide.replica import Replica, Schema
from clisonix.tide.scenario import HUB, RIVAL, Fault, Outcome, Scenario, site_name
from clisonix.tide.site import Site, Work
from clisonix.tide.wire import Wire

_TARGETS = 64


class World(ABC):
    """Drives one scenario to its end.

    Args:
        scenario: what to simulate.

    Raises:
        ClisonixError: from `run`, when a law is broken or the group is stuck; the message gives the seed.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = replace(scenario, rules=replace(scenario.rules, min_sites=scenario.sites))
        self._draw = Random(scenario.seed)
        self._last_fault_s = max((fault.at_s for fault in scenario.faults), default=0.0)
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        numbers = np.random.default_rng(scenario.seed)
        self.schema = Schema({"weight": (scenario.size // 2, 2)}, {"mean": (3,)})
        self.start = numbers.standard_normal(self.schema.size).astype(np.float32)
        self._targets = numbers.standard_normal((_TARGETS, self.schema.size)).astype(np.float32)
        self.ledger = Ledger()
        self.sites: dict[str, Site] = {}
        self.hubs: dict[str, Coordinator] = {}
        self._disks = {HUB: io.BytesIO(), RIVAL: io.BytesIO()}
        self._wires: dict[str, Wire] = {}
        self._lives: Counter[str] = Counter()
        self._hung: dict[str, float] = {}
        self._apart: dict[tuple[str, str], float] = {}
        self._training: dict[str, tuple[int, int]] = {}
        self.sent_bytes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def run(self) -> Outcome:
        """Simulate until all rounds are committed and all nodes that live have settled."""
        self._start_hub(HUB, Replica(self.schema, self.scenario.rules, self.start))
        for index in range(self.scenario.sites):
            self._start_site(site_name(index))
        for fault in sorted(self.scenario.faults, key=lambda each: each.at_s):
            self._at(fault.at_s, lambda fault=fault: self.strike(fault))  # type: ignore[misc]
        while not self._done():
            if not self._events or self.now_s > self.scenario.limit_s:
                raise ClisonixError(
                    f"the simulation with seed {self.scenario.seed} is stuck in round {self._hub_round()} at "
                    f"{self.now_s:.1f} s"
                )
            self.now_s, _, act = heapq.heappop(self._events)
            act()
        try:
            digest = self.ledger.settle(self)
        except ClisonixError as error:
            raise ClisonixError(f"the simulation with seed {self.scenario.seed} broke a law: {error}") from error
        return Outcome(
            self._hub_round(),
            digest,
            self.now_s,
            self._count,
            dict(self.sent_bytes),
            dict(self.refused),
            self.ledger.healed + self.leader().confessed.total(),
            len(self.leader().replica.roll.voters),
        )

    @abstractmethod
    def strike(self, fault: Fault) -> None:
        """Let something go wrong."""

    def fresh_replica(self) -> Replica:
        """The state before the first round."""
        replica = Replica(self.schema, self.scenario.rules, self.start)
        for record in Log(self._disks[HUB]).records:
            first = read_record(record)[0]
            if first.kind is Kind.BASE and first.round == 0:
                restore(first, replica, Feedback(self.schema.codec(self.scenario.rules.down)))
        return replica

    def active_sites(self) -> list[Site]:
        """Those that live, vote and were not cut off for good."""
        voters = set(self.leader().replica.roll.voters)
        return [site for name, site in self.sites.items() if name in voters and not site.left]

    def leader(self) -> Coordinator:
        """The coordinator that is furthest."""
        return max(self.hubs.values(), key=lambda hub: (hub.replica.round, hub.replica.term, hub.name == HUB))

    def _hub_round(self) -> int:
        return self.leader().replica.round if self.hubs else 0

    def _done(self) -> bool:
        """Rounds go on until the wanted number is reached and all voters stand on one state."""
        if self._hub_round() < self.scenario.rounds or self.now_s < self._last_fault_s:
            return False
        if self._hung or self._apart or RIVAL in self.hubs:
            return False
        replica = self.leader().replica
        voters = self.active_sites()
        if not all(site.ready and site.replica.round == replica.round for site in voters):
            return False
        return len({replica.root(), *(site.replica.root() for site in voters)}) == 1

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when_s, self.now_s), self._count, act))

    # Nodes

    def _wire(self, name: str) -> Wire:
        """A fresh one for each life of a node; its numbers go on."""
        self._lives[name] += 1
        keys: Mapping[str, bytes] = _Keys(name)
        wire = Wire(keys, nonce=self._lives[name] << 32)
        self._wires[name] = wire
        return wire

    def _start_hub(self, name: str, replica: Replica) -> None:
        self._wire(name)
        hub = Coordinator(name, replica, Log(self._disks[name]), self.ledger.committed)
        self.hubs[name] = hub
        self._post(name, hub.start(self.now_s))
        life = self._lives[name]
        self._at(self.now_s + 1.0, lambda: self._tick_hub(name, life))

    def _tick_hub(self, name: str, life: int) -> None:
        hub = self.hubs.get(name)
        if hub is None or self._lives[name] != life:
            return
        if name not in self._hung:
            self._post(name, hub.tick(self.now_s))
            if hub.halted and name == HUB:
                # Its operator starts it again; what it missed it learns from the sites.
                self._start_hub(name, Replica(self.schema, self.scenario.rules, self.start))
                return
        self._at(self.now_s + 1.0, lambda: self._tick_hub(name, life))

    def _start_site(self, name: str) -> None:
        self._wire(name)
        site = Site(name, Replica(self.schema, self.scenario.rules, self.start))
        self.sites[name] = site
        self._training.pop(name, None)
        self._post_up(name, site.start(self.now_s))
        life = self._lives[name]
        self._at(self.now_s + 3.0, lambda: self._tick_site(name, life))

    def _tick_site(self, name: str, life: int) -> None:
        site = self.sites.get(name)
        if site is None or self._lives[name] != life:
            return
        if name not in self._hung:
            self._post_up(name, site.tick(self.now_s))
            self._look_for_work(name, site)
        self._at(self.now_s + 3.0, lambda: self._tick_site(name, life))

    def _look_for_work(self, name: str, site: Site) -> None:
        work = site.work()
        if work is None or self._training.get(name) == (work.round, work.ticket):
            return
        self._training[name] = (work.round, work.ticket)
        life = self._lives[name]
        self._at(self.now_s + self._draw.uniform(0.5, 1.0), lambda: self._trained(name, life, work))

    def _trained(self, name: str, life: int, work: Work) -> None:
        site = self.sites.get(name)
        if site is None or self._lives[name] != life:
            return
        if name in self._hung:
            self._at(self._hung[name], lambda: self._trained(name, life, work))
            return
        arrived = work.parameters.copy()
        number = int(name[1:])
        span = 1 + number % 3
        for window in range(work.start, work.start + span):
            pull = arrived - self._targets[(31 * number + 17 * window) % _TARGETS]
            pull *= np.float32(0.1)
            arrived -= pull
        sent = site.finish(work, arrived, work.start + span, span, self.now_s)
        for each in sent:
            self.ledger.produced(each)
        self._post_up(name, sent)
        self._look_for_work(name, site)

    # Network

    def _post_up(self, name: str, messages: Sequence[Message]) -> None:
        for message in messages:
            for hub in self.hubs if len(self.hubs) > 1 else (HUB,):
                self._send(name, hub, message)

    def _post(self, name: str, messages: Sequence[tuple[str, Message]]) -> None:
        for site, message in messages:
            self._send(name, site, message)

    def _send(self, sender: str, receiver: str, message: Message) -> None:
        data = self._wires[sender].seal(message, receiver)
        self.sent_bytes["down" if sender in self._disks else "up"] += len(data)
        chance = self._draw.random()
        if chance < self.scenario.drop or self._separated(sender, receiver):
            return
        for _ in range(2 if chance > 1 - self.scenario.duplicate else 1):
            delay = 0.01 + 0.1 * self._draw.random()
            self._at(self.now_s + delay, lambda: self._deliver(sender, receiver, data))

    def _separated(self, sender: str, receiver: str) -> bool:
        return bool(self._apart) and ((sender, receiver) in self._apart or (receiver, sender) in self._apart)

    def _deliver(self, sender: str, receiver: str, data: bytes) -> None:
        if receiver in self._hung:
            self._at(self._hung[receiver], lambda: self._deliver(sender, receiver, data))
            return
        hub, site = self.hubs.get(receiver), self.sites.get(receiver)
        try:
            if hub is not None:
                self._post(receiver, hub.handle(self._wires[receiver].open(data), self.now_s))
            elif site is not None:
                answers = site.handle(self._wires[receiver].open(data), self.now_s)
                for answer in answers:
                    self._send(receiver, sender, answer)
                self._look_for_work(receiver, site)
        except Refused as error:
            self.refused[error.reason] += 1


class _Keys(dict[str, bytes]):
    """The secret of every pair that speaks to each other, made when it is asked for."""

    def __init__(self, own: str) -> None:
        super().__init__()
        self._own = own

    def get(self, peer: str, default: object = None) -> bytes:
        if peer not in self:
            pair = "/".join(sorted((self._own, peer)))
            self[peer] = hashlib.sha256(pair.encode()).digest()
        return self[peer]
