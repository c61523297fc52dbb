"""What must hold in every simulation, whatever went wrong in it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from clisonix.errors import ClisonixError
from clisonix.tide.message import Message, Refused
from clisonix.tide.replica import Replica

if TYPE_CHECKING:
    from clisonix.tide.world import World


class Ledger:
    """Writes down what the nodes do and compares it in the end with a replay on one node.

    Attributes:
        flipped: nodes whose memory lost a bit.
        healed: updates that a commit called odd.
    """

    def __init__(self) -> None:
        self.flipped: list[str] = []
        self.healed = 0
        self._commits: dict[int, list[tuple[Message, list[Message]]]] = defaultdict(list)
        self._sent: dict[tuple[str, int, int, int], set[bytes]] = defaultdict(set)
        self._claims: list[tuple[str, int, str]] = []

    def committed(self, commit: Message, used: list[Message]) -> None:
        """What a coordinator calls with each commit."""
        self._commits[commit.round].append((commit, used))
        for each in commit.tensors:
            if each.name == "odd":
                self.healed += each.data.count(b"\n") + 1

    def produced(self, update: Message) -> None:
        """What a site made of its windows."""
        key = (update.sender, update.round, update.number("start"), update.number("stop"))
        self._sent[key].add(hashlib.sha256(update.tensor("update").data).digest())
        self._claims.append((update.sender, update.number("held"), update.text("root")))

    def settle(self, simulator: World) -> str:
        """Check every law; gives the digest of the final state.

        Raises:
            ClisonixError: the law that was broken.
        """
        leader = simulator.leader()
        holders = [leader.name, *(site.name for site in simulator.active_sites())]
        held = {leader.replica.root().hex(), *(site.replica.root().hex() for site in simulator.active_sites())}
        unhealed = set(holders).intersection(self.flipped)
        chain = self._chain(simulator.fresh_replica(), {}, leader.replica.round, held)
        if chain is None:
            raise ClisonixError("the commits do not make the state that the nodes hold")
        commits, roots = chain
        self._check_lost([commit for commit, _ in commits], simulator.scenario.rules.lag)
        cursors: Counter[str] = Counter()
        for commit, used in commits:
            for each in used:
                start, stop = each.number("start"), each.number("stop")
                if start != cursors[each.sender]:
                    raise ClisonixError(f"{each.sender} went from window {cursors[each.sender]} to {start}")
                key = (each.sender, commit.round, start, stop)
                if hashlib.sha256(each.tensor("update").data).digest() not in self._sent[key]:
                    raise ClisonixError(f"round {commit.round} used an update that {each.sender} never made")
                cursors[each.sender] = stop
        final = roots[leader.replica.round]
        if leader.replica.root().hex() != final and leader.name not in unhealed:
            raise ClisonixError("the coordinator does not hold what its commits make")
        for site in simulator.active_sites():
            if site.replica.root().hex() != final and site.name not in unhealed:
                raise ClisonixError(f"{site.name} differs in round {site.replica.round}")
            if site.cursor != cursors[site.name]:
                raise ClisonixError(f"{site.name} stands at window {site.cursor}, not at {cursors[site.name]}")
        self._check_claims(self._lawful(simulator.fresh_replica(), {}, defaultdict(set)))
        return final

    def _chain(
        self, replica: Replica, roots: dict[int, str], last: int, held: set[str]
    ) -> tuple[list[tuple[Message, list[Message]]], dict[int, str]] | None:
        """The commits from the first round to the last, each built on the one before, that lead to what is held.

        Two coordinators may both have committed a round; of these only one can have been built upon.
        """
        chain: list[tuple[Message, list[Message]]] = []
        while True:
            roots = {**roots, replica.round: replica.root().hex()}
            if replica.round == last:
                return (chain, roots) if roots[last] in held else None
            fitting = [
                (commit, used) for commit, used in self._commits[replica.round] if _fits(replica, roots, commit, used)
            ]
            if len(fitting) != 1:
                break
            replica.apply(fitting[0][0])
            chain.append(fitting[0])
        for commit, used in fitting:
            branch = replica.copy()
            branch.apply(commit)
            rest = self._chain(branch, roots, last, held)
            if rest is not None:
                return [*chain, (commit, used), *rest[0]], rest[1]
        return None

    def _check_lost(self, stayed: list[Message], lag: int) -> None:
        """A commit on which the same coordinator built another is held by a majority and must have stayed."""
        made = {(round_, c.sender, c.term) for round_, found in self._commits.items() for c, _ in found}
        for round_, found in self._commits.items():
            for commit, _ in found:
                built_upon = (round_ + 1 + lag, commit.sender, commit.term) in made
                if built_upon and commit.body != stayed[round_].body:
                    raise ClisonixError(f"the commit of round {round_} in term {commit.term} was lost")

    def _lawful(self, replica: Replica, roots: dict[int, str], found: dict[int, set[str]]) -> dict[int, set[str]]:
        """The digests of every state that some chain of commits leads to, also those that did not stay."""
        roots = {**roots, replica.round: replica.root().hex()}
        found[replica.round].add(roots[replica.round])
        for commit, used in self._commits.get(replica.round, []):
            if _fits(replica, roots, commit, used):
                branch = replica.copy()
                branch.apply(commit)
                self._lawful(branch, roots, found)
        return found

    def _check_claims(self, lawful: dict[int, set[str]]) -> None:
        """A site is wrong only after a bit flipped in it, and at most twice for each: then it has been healed."""
        wrong: Counter[str] = Counter()
        for site, held, root in self._claims:
            if root not in lawful[held]:
                wrong[site] += 1
        flips = Counter(self.flipped)
        for site, count in wrong.items():
            if count > 2 * flips[site]:
                raise ClisonixError(f"{site} held {count} wrong states after {flips[site]} flipped bits")


def _fits(replica: Replica, roots: dict[int, str], commit: Message, used: list[Message]) -> bool:
    """Can this commit have been made upon this state?"""
    try:
        replica.roll.check(commit)
    except Refused:
        return False
    return all(roots.get(each.number("held")) == each.text("root") for each in used)
