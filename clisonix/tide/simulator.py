"""A training on a thousand nodes in one process in which everything goes wrong that the scenario says.

Everything follows from the seed, so a run that breaks a law can be looked at again.
"""

from __future__ import annotations

import io

import numpy as np

from clisonix.tide.replica import Replica
from clisonix.tide.scenario import HUB, RIVAL, Fault, Outcome, Scenario, site_name
from clisonix.tide.world import World

__all__ = ["HUB", "RIVAL", "Fault", "Outcome", "Scenario", "Simulator"]


class Simulator(World):
    """The world in which faults strike; see `World`."""

    def strike(self, fault: Fault) -> None:
        """Let something go wrong."""
        node, back_s = fault.node, self.now_s + fault.for_s
        if fault.kind == "join":
            self._start_site(site_name(len(self.sites) + 100))
        elif fault.kind == "leave" and self.hubs and node in self.sites and len(self.active_sites()) > 2:
            self._post_up(node, self.sites[node].leave())
        elif fault.kind == "flip":
            self._flip(node)
        elif fault.kind == "hang":
            self._hung[node] = back_s
            self._at(back_s, lambda: self._wake(node))
        elif fault.kind == "cut":
            others = self.sites if node == HUB else (HUB,)
            self._cut([(node, other) for other in others], back_s)
        elif fault.kind == "kill":
            self._kill(node, back_s)
        elif fault.kind == "rival":
            self._rival(back_s)

    def _wake(self, node: str) -> None:
        if self._hung.get(node, 0.0) <= self.now_s:
            self._hung.pop(node, None)

    def _cut(self, pairs: list[tuple[str, str]], until_s: float) -> None:
        for pair in pairs:
            self._apart[pair] = max(until_s, self._apart.get(pair, 0.0))
        self._at(until_s, self._mend)

    def _mend(self) -> None:
        self._apart = {pair: until for pair, until in self._apart.items() if until > self.now_s}

    def _kill(self, node: str, back_s: float) -> None:
        self._lives[node] += 1
        if node in self.hubs:
            self.hubs.pop(node)
            blank = Replica(self.schema, self.scenario.rules, self.start)
            self._at(back_s, lambda: None if HUB in self.hubs else self._start_hub(HUB, blank))
        elif node in self.sites:
            self.sites.pop(node)
            self._at(back_s, lambda: None if node in self.sites else self._start_site(node))

    def _flip(self, node: str) -> None:
        holder = self.hubs.get(node) or self.sites.get(node)
        if holder is None:
            return
        part = self._draw.choice([holder.replica.outer, holder.replica.momentum]).view(np.uint8)
        part[self._draw.randrange(len(part))] ^= 1 << self._draw.randrange(8)
        self.ledger.flipped.append(node)

    def _rival(self, back_s: float) -> None:
        """Half the sites lose the coordinator, and one among them begins to coordinate."""
        if RIVAL in self.hubs or not self.sites:
            return
        names = sorted(self.sites)
        half = set(self._draw.sample(names, (len(names) + 1) // 2))
        self._cut([(HUB, name) for name in half], back_s)
        self._cut([(RIVAL, name) for name in names if name not in half], back_s)
        seeds = [name for name in sorted(half) if self.sites[name].ready and self.sites[name].sound()]
        if not seeds:
            return
        seed = self.sites[self._draw.choice(seeds)].replica.copy()
        self._disks[RIVAL] = io.BytesIO()
        self._start_hub(RIVAL, seed)
        self._at(back_s, self._end_rival)

    def _end_rival(self) -> None:
        self.hubs.pop(RIVAL, None)
        self._lives[RIVAL] += 1
