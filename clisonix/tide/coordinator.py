"""The coordinator as a state machine: it collects updates, lets the majority decide, and writes down every step."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

from clisonix.errors import ClisonixError
from clisonix.tide.ballot import MINE, judge, mean_of, no_majority, parts_of, root_behind
from clisonix.tide.codecs import Feedback
from clisonix.tide.journal import base_of, read_record, record_of, restore, write_record
from clisonix.tide.log import Log
from clisonix.tide.membership import Membership
from clisonix.tide.message import Kind, Message, Packed, Refused
from clisonix.tide.pending import HEAL_BYTES, tree_of
from clisonix.tide.replica import Replica, buffers_of
from clisonix.tide.roll import Roll

DAMAGED = "the state in memory is no longer what the log says, so start the coordinator again from its log"
Outgoing = list[tuple[str, Message]]
_HISTORY = 8


class Coordinator:
    """Turns updates into commits. A pure state machine: the clock and all messages are handed in.

    A round is committed when all voters have answered, or when its time is up and a majority has. Before anybody
    hears of a commit, it and the updates it used are in the log, from which `resume` comes to the same state. Each
    start begins a new term; a site follows the newest, so that two coordinators never commit with one majority.

    Args:
        name: of the coordinator.
        replica: the state to begin with.
        log: empty, or from before; then `replica` only tells schema and rules.
        on_commit: told each commit with the updates it used, in order.

    Attributes:
        halted: why it has stopped; it must be started again from its log.
        confessed: how often each site has said that its state was damaged; what the vote finds is in the commits.
    """

    def __init__(
        self,
        name: str,
        replica: Replica,
        log: Log,
        on_commit: Callable[[Message, list[Message]], None] | None = None,
    ) -> None:
        self.name, self.replica, self.rules = name, replica, replica.rules
        self.log, self._on_commit = log, on_commit
        self.members = Membership(self.rules.patience)
        self.feedback = Feedback(replica.schema.codec(self.rules.down), self.rules.feedback_decay)
        self._up = replica.schema.codec(self.rules.up)
        self.term = replica.term
        self.halted: str | None = None
        self.confessed: Counter[str] = Counter()
        self._open = False
        self._begun = bool(log.records)
        self._promises: dict[str, Message] = {}
        self._updates: dict[int, dict[str, Message]] = {}
        self._parting: set[str] = set()
        self._roots: dict[int, bytes] = {}
        self._history: deque[Message] = deque(maxlen=_HISTORY)
        self._healer: str | None = None
        self._expected: bytes | None = None
        self._tried = 0
        self._since_s = 0.0
        self._asked_s = 0.0
        for record in log.records:
            self._replay(read_record(record))
        self._keep_root()

    def start(self, now_s: float) -> Outgoing:
        """Begin a term: wait for enough sites, or call upon those that voted before."""
        self.term += 1
        self._promises.clear()
        self._healer = None
        if not self._begun:
            write_record(self.log, [base_of(self.name, self.replica, self.feedback)])
            self._begun = True
        write_record(self.log, [Message(Kind.CALL, self.name, self.replica.round, self.term)])
        self._since_s = self._asked_s = now_s
        return self._call(now_s)

    def agreed(self) -> str:
        """The digest that the state had when it was agreed, in hex."""
        return self._roots[self.replica.round].hex()

    def records(self) -> list[bytes]:
        """What a shorter log must hold to go on from here; for `Log.rewrite`.

        Raises:
            ClisonixError: the state in memory is not the one that was agreed, so the longer log must stay.
        """
        if not self._sound():
            raise ClisonixError(f"the log was not shortened: {DAMAGED}")
        return [record_of([base_of(self.name, self.replica, self.feedback)]), record_of([self._say(Kind.CALL)])]

    def handle(self, message: Message, now_s: float) -> Outgoing:
        """React to a site.

        Raises:
            Refused: the message is damaged in a way that its tag does not show.
        """
        if self.halted:
            return []
        kind, site = message.kind, message.sender
        if kind is Kind.STALE:
            if not self._open and message.term >= self.term:
                self.term = message.term
                return self.start(now_s)
            if message.term > self.term:
                self.halted = f"a coordinator of term {message.term} is followed, so this one of {self.term} stops"
            return []
        if kind is Kind.PROMISE and message.term == self.term and not self._open:
            return self._promised(message, now_s)
        if kind is Kind.HEAL and self._healer == site:
            return self._healed(message, now_s)
        if not self._open:
            return []
        out: Outgoing = []
        if kind is Kind.JOIN:
            self.confessed[site] = max(self.confessed[site], message.number("damaged"))
            out = self._join(site)
        elif kind is Kind.LEAVE:
            out = self._leave(message)
        elif kind is Kind.TREE and message.round == self.replica.round:
            out = self._remedy(message, now_s)
        elif kind is Kind.UPDATE:
            out = self._update(message)
        return out + self._advance(now_s)

    def present(self, site: str, now_s: float) -> Outgoing:
        """A connection to a site has been made."""
        self.members.away.discard(site)
        if self.halted or self._open or site not in self.replica.roll.concerned() or site in self._promises:
            return []
        return [(site, self._say(Kind.CALL))]

    def absent(self, site: str, now_s: float) -> Outgoing:
        """A site is known not to answer; rounds go on without waiting for it."""
        self.members.away.add(site)
        return self.tick(now_s)

    def tick(self, now_s: float) -> Outgoing:
        """Look at the clock."""
        if self.halted:
            return []
        waited = now_s - self._asked_s >= self.rules.resend_s
        if self._healer is not None:
            return self._without_healer(now_s) if waited else []
        if not self._open:
            return self._call(now_s) if waited else []
        return self._advance(now_s)

    def _call(self, now_s: float) -> Outgoing:
        self._asked_s = now_s
        if not self.replica.roll.voters:
            self._open = True
            return []
        asked = [site for site in self.replica.roll.concerned() if site not in self._promises]
        return [(site, self._say(Kind.CALL)) for site in asked]

    def _promised(self, message: Message, now_s: float) -> Outgoing:
        self._promises[message.sender] = message
        if not self.replica.roll.is_quorum(self._promises) or self._healer is not None:
            return []
        if self.replica.term >= 0 and not self._sound():
            self.halted = DAMAGED
            return []
        newest = max(self._promises, key=self._position)
        if self._position(newest) > (self.replica.term, self.replica.round):
            # A majority holds what a majority committed, so whatever is newer must be among them. Until all of it is
            # here, this state is older than any other.
            self.replica.term = -1
            return self._ask_healer(newest, self._promises[newest].round, now_s)
        return self._begin(now_s)

    def _position(self, site: str) -> tuple[int, int]:
        promise = self._promises[site]
        return promise.number("held_term"), promise.round

    def _remedy(self, message: Message, now_s: float) -> Outgoing:
        mine, known = self.replica.tree(), self._roots[self.replica.round]
        if self.replica.root(mine) != known:
            return self._heal_self(known, {}, now_s)
        parts = self.replica.remedy(message.tensor("tree").data, mine, HEAL_BYTES)
        fields = self.replica.position(known)
        return [(message.sender, self._say(Kind.HEAL, fields, parts + self.replica.roll.tensors()))]

    def _heal_self(self, wanted: bytes, claims: Mapping[str, bytes], now_s: float) -> Outgoing:
        """Ask a site for the state that this coordinator should hold, first those that say they do."""
        likely = [site for site, claim in claims.items() if claim == wanted] or list(self.replica.roll.voters)
        self._expected, self._tried = wanted, self._tried + 1
        return self._ask_healer(likely[self._tried % len(likely)], self.replica.round, now_s)

    def _ask_healer(self, site: str, round_: int, now_s: float) -> Outgoing:
        self._healer, self._asked_s = site, now_s
        tree = (tree_of(self.replica.tree()),)
        return [(site, Message(Kind.TREE, self.name, round_, self.term, {}, tree))]

    def _without_healer(self, now_s: float) -> Outgoing:
        site, self._healer = self._healer, None
        self._asked_s = now_s
        if self._open:
            return self._heal_self(self._expected or b"", {}, now_s)
        self._promises.pop(str(site), None)
        return self._call(now_s)

    def _healed(self, message: Message, now_s: float) -> Outgoing:
        if self._open and self._expected is not None and message.text("root") != self._expected.hex():
            return self._without_healer(now_s)
        self.replica.heal_with(message)
        if self.replica.root().hex() != message.text("root"):
            self.replica.term = -1
            return self._ask_healer(message.sender, message.round, now_s)
        self._healer = self._expected = None
        self._keep_root()
        write_record(self.log, [base_of(self.name, self.replica, self.feedback)])
        if self._open or self.replica.roll.is_quorum(self._promises):
            return self._begin(now_s)
        return self._call(now_s)  # the voters are others than was thought

    def _begin(self, now_s: float) -> Outgoing:
        self._open, self._since_s = True, now_s
        self._updates.clear()
        self._promises.clear()
        self._history.clear()
        self._parting.clear()
        return [(site, self._welcome()) for site in self.replica.roll.concerned()]

    def _join(self, site: str) -> Outgoing:
        if not self.replica.roll.voters:
            self.members.asks_to_join(site)
            if len(self.members.joining) < self.rules.min_sites:
                return []
            if not self._sound():
                self.halted = DAMAGED
                return []
            self.replica.roll = Roll(self.members.joining)
            self.members.joining.clear()
            write_record(self.log, [base_of(self.name, self.replica, self.feedback)])
            self._keep_root()
            return [(each, self._welcome()) for each in self.replica.roll.voters]
        if site not in self.replica.roll.voters:
            self.members.asks_to_join(site)
        return [(site, self._welcome())]

    def _leave(self, message: Message) -> Outgoing:
        site, behind = message.sender, self.replica.round - message.round
        self.members.asks_to_leave(site)
        if behind == 0 and message.term == self.term:
            # It holds this round's state, which is what a majority of the voters before a change must do.
            self._parting.add(site)
        return self._missed(site, behind) if behind > 0 else []

    def _missed(self, site: str, behind: int) -> Outgoing:
        missing = [each for each in self._history if each.round >= self.replica.round - behind]
        if len(missing) == behind:
            return [(site, each) for each in missing]
        return [(site, self._welcome())]

    def _welcome(self) -> Message:
        fields = self.replica.position(self._roots[self.replica.round])
        return self._say(Kind.WELCOME, fields, self.replica.roll.tensors())

    def _update(self, message: Message) -> Outgoing:
        site, ahead = message.sender, message.round - self.replica.round
        if ahead < 0:
            return self._missed(site, -ahead)
        if ahead > self.rules.lag or site not in self.replica.roll.voters:
            return self._join(site)
        if message.term != self.term:
            return [(site, self._welcome())]
        if message.number("stop") <= message.number("start"):
            raise Refused("malformed", f"an update of {site!r} uses no window")
        self._up.unpack(message.tensor("update"))
        buffers_of(message, self.replica.schema)
        self._updates.setdefault(message.round, {})[site] = message
        return []

    def _advance(self, now_s: float) -> Outgoing:
        voters = self.replica.roll.voters
        heard = self._updates.get(self.replica.round, {})
        awaited, over = self.members.awaited(voters), now_s - self._since_s >= self.rules.timeout_s
        # Cheap first: this runs for every message.
        if not voters or self._healer is not None or (len(heard) < awaited and not over):
            return []
        known = set(voters)
        # An early update of a site that was struck off since does not count.
        here = {site: each for site, each in heard.items() if site in known}
        answered = len(here) - sum(site in here for site in self.members.leaving | self.members.away)
        if not here or not self.replica.roll.is_quorum({*here, *self._parting}) or (answered < awaited and not over):
            return []
        return self._decide(here, now_s)

    def _decide(self, here: Mapping[str, Message], now_s: float) -> Outgoing:
        """The majority says which state is right; then its updates are used."""
        mine, now = self._roots[self.replica.round], self.replica.round
        held = {site: bytes.fromhex(each.text("root")) for site, each in here.items() if each.number("held") == now}
        if self.replica.root() != mine:
            return self._heal_self(mine, held, now_s)
        verdict = judge(here, self._roots)
        if verdict.root is None:
            self.halted = no_majority(here.values(), now, mine)
            return []
        if verdict.root != MINE:
            return self._heal_self(root_behind(here, verdict.root, self._roots), held, now_s)
        odd = set(verdict.odd)
        used = [
            here[site]
            for site in sorted(here)
            if site not in odd and here[site].number("start") == self.replica.roll.cursor(site)
        ]
        return self._commit(used, odd, set(here), now_s)

    def _commit(self, used: list[Message], odd: set[str], present: set[str], now_s: float) -> Outgoing:
        roll = self.replica.roll
        voters, told = roll.voters, set(roll.concerned())
        joined, left = self.members.close_round(voters, present, not roll.unsettled)
        mean, moved = mean_of(used, self._up, self.replica.schema)
        data, residual = self.feedback.encode(mean)
        tensors = parts_of(self.feedback.codec.pack("update", data), roll, used, moved, odd)
        commit = self._say(Kind.COMMIT, {"joined": joined, "left": left}, tensors)
        write_record(self.log, [commit, *used])
        self.feedback.settle(data, residual)
        self.replica.apply(commit)
        self._updates.pop(commit.round, None)
        self._parting.clear()
        self._since_s = now_s
        self._keep_root()
        self._history.append(commit)
        if self._on_commit:
            self._on_commit(commit, used)
        out: Outgoing = [(site, commit) for site in sorted({*told, *self.replica.roll.voters})]
        lost = present - odd - {each.sender for each in used}
        return out + [(site, self._welcome()) for site in sorted(lost) if site in self.replica.roll.voters]

    def _sound(self) -> bool:
        return self.replica.root() == self._roots.get(self.replica.round)

    def _keep_root(self) -> None:
        """Only right after the state was made and compared; later it would pass off a flipped bit as agreed."""
        self._roots[self.replica.round] = self.replica.root()
        for old in [each for each in self._roots if each < self.replica.round - self.rules.lag]:
            del self._roots[old]

    def _replay(self, messages: list[Message]) -> None:
        first, *used = messages
        if first.kind is Kind.BASE:
            restore(first, self.replica, self.feedback)
            self.term = max(self.term, first.term)
        elif first.kind is Kind.CALL:
            self.term = max(self.term, first.term)
        else:
            self.feedback.replay(mean_of(used, self._up, self.replica.schema)[0], first.tensor("update").data)
            self.replica.apply(first)
            self._history.append(first)

    def _say(
        self, kind: Kind, fields: Mapping[str, object] | None = None, tensors: tuple[Packed, ...] = ()
    ) -> Message:
        return Message(kind, self.name, self.replica.round, self.term, fields or {}, tensors)
