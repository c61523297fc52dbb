"""A site as a state machine: messages and work in, messages out; it does no input or output and owns no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clisonix.errors import ClisonixError
from clisonix.tide.codecs import Feedback
from clisonix.tide.message import Kind, Message, Packed
from clisonix.tide.pending import HEAL_BYTES, Floats, Pending, odd_of, tree_of
from clisonix.tide.replica import Replica


@dataclass(frozen=True)
class Work:
    """What to train next.

    Attributes:
        round: that the result will count for.
        start: the first window, counted from the beginning of this site's stream.
        parameters: `(size,)` from which the inner steps start.
        ticket: marks work that has been overtaken.
    """

    round: int
    start: int
    parameters: Floats
    ticket: int


class Site:
    """Trains what it is given, and follows the coordinator that a majority follows.

    The driver calls `start`, delivers messages to `handle`, calls `tick` now and then, and whenever `work()` gives
    something trains it and calls `finish`. What these return is sent to the coordinator. Windows count as used only
    when a commit includes their update; otherwise they come again.

    Args:
        name: of the site.
        replica: the state; at a new site it is filled by the group.

    Attributes:
        damaged: how often this site itself found its state not to be what it had agreed to.
    """

    def __init__(self, name: str, replica: Replica) -> None:
        self.name, self.replica = name, replica
        self.cursor = replica.roll.cursor(name)
        self.rules = replica.rules
        self.feedback = Feedback(replica.schema.codec(self.rules.up), self.rules.feedback_decay)
        self.term = 0
        self._followed = ""
        self.ready = False
        self.left = False
        self.damaged = 0
        self._leaving = False
        self._root = replica.root()
        self._target: Message | None = None
        self._asked_s = 0.0
        self._ticket = 0
        self._next = 0
        self._pending: list[Pending] = []

    @property
    def ticket(self) -> int:
        """Of work that still counts."""
        return self._ticket

    def agreed(self) -> str:
        """The digest that the state had when it was agreed, in hex."""
        return self._root.hex()

    def start(self, now_s: float) -> list[Message]:
        """Ask to take part; also after a restart or a long absence."""
        self.ready, self._target = False, None
        self._asked_s = now_s
        return [self._say(Kind.JOIN, {"damaged": self.damaged}), *([self._say(Kind.LEAVE)] if self._leaving else [])]

    def leave(self) -> list[Message]:
        """Say goodbye. The site takes part until a commit lets it go, and `left` is then true."""
        self._leaving = True
        return [self._say(Kind.LEAVE)]

    def sound(self) -> bool:
        """Is the state complete, and still what it was after the last commit?"""
        return self._target is None and self.replica.root() == self._root

    def work(self) -> Work | None:
        """The next piece of work, when there is one that was not handed out."""
        if not self.ready or self._parting() or self._next > self.replica.round + self.rules.lag:
            return None
        if self._pending and self._pending[-1].round >= self._next:
            return None
        start = self._pending[-1].stop if self._pending else self.cursor
        return Work(self._next, start, self.replica.outer.copy(), self._ticket)

    def finish(self, work: Work, arrived: Floats, stop: int, weight: float, now_s: float) -> list[Message]:
        """Hand in the result of `work`.

        Args:
            work: as it was given.
            arrived: `(size,)`, where the inner steps ended.
            stop: the window after the last one used.
            weight: of this site in the mean, such as the number of windows; above 0.
            now_s: the clock.

        Raises:
            ClisonixError: a parameter is not finite, or the weight is not positive.
        """
        if work.ticket != self._ticket or work.round != self._next or not self.ready:
            return []
        if not np.isfinite(arrived).all():
            if not self.sound():
                return self._damaged(now_s)
            raise ClisonixError(
                f"site {self.name!r} arrived at parameters that are not finite, so nothing was sent: lower the "
                "learning rate or mend the data"
            )
        if not 0 < weight < float("inf") or stop <= work.start:
            raise ClisonixError(f"site {self.name!r} gave weight {weight!r} and windows {work.start} to {stop}")
        moved = np.subtract(work.parameters, arrived, dtype=np.float32)
        trained = self.replica.schema.trained_size
        residual = self._pending[-1].left if self._pending else None
        data, left = self.feedback.encode(moved[:trained], residual)
        # Hashed now, so that what a bit flipped while training is noticed before anything is built on it.
        root = self.replica.root()
        item = Pending(
            work.round,
            work.start,
            stop,
            float(weight),
            data,
            moved[trained:],
            left,
            self.replica.round,
            root,
            now_s,
            self.term,
        )
        self._pending.append(item)
        self._next += 1
        return [item.message(self.name, self.term, self.feedback.codec)]

    def tick(self, now_s: float) -> list[Message]:
        """Send again what has waited too long for an answer."""
        if self.left:
            return []
        if not self.ready:
            if now_s - self._asked_s < self.rules.resend_s:
                return []
            return self.start(now_s)
        out = [self._say(Kind.LEAVE)] if self._leaving else []
        for item in self._pending:
            if now_s - item.sent_s >= self.rules.resend_s:
                item.sent_s = now_s
                out.append(item.message(self.name, self.term, self.feedback.codec))
        return out

    def again(self, now_s: float) -> list[Message]:
        """A connection was lost and made again: what travelled on it may be lost."""
        for item in self._pending:
            item.sent_s = -math.inf
        self._asked_s = -math.inf
        return self.tick(now_s)

    def handle(self, message: Message, now_s: float) -> list[Message]:
        """React to a message of a coordinator.

        Raises:
            Refused: it is damaged in a way that its tag does not show; nothing was changed.
        """
        if message.term < self.term or (message.term == self.term and self._followed not in ("", message.sender)):
            return [self._say(Kind.STALE)]
        self._followed = message.sender
        if message.kind is Kind.CALL:
            self.term = message.term
            # Whoever asks may take over this state, so one that is not whole counts as the oldest of all.
            sound = self.sound()
            fields = {"held_term": max(self.replica.term, 0) if sound else 0}
            return [Message(Kind.PROMISE, self.name, self.replica.round if sound else 0, self.term, fields)]
        if message.kind is Kind.TREE:
            return self._give(message)
        self.term = message.term
        if self.left:
            return []
        if message.kind is Kind.WELCOME:
            return self._welcome(message, now_s)
        if message.kind is Kind.COMMIT:
            return self._commit(message, now_s)
        if message.kind is Kind.HEAL:
            return self._heal(message, now_s)
        return []

    def _welcome(self, message: Message, now_s: float) -> list[Message]:
        same = self.ready and message.round == self.replica.round
        if same and self.sound() and self._root.hex() == message.text("root"):
            # Nothing is new but perhaps the term; what was on its way goes again.
            self.replica.term = message.number("held_term")
            # Not at once if it has just been sent: an answer to each answer would never end.
            late = [
                item
                for item in self._pending
                if item.term != self.term or now_s - item.sent_s >= self.rules.resend_s / 4
            ]
            for item in late:
                item.sent_s, item.term = now_s, self.term
            return [item.message(self.name, self.term, self.feedback.codec) for item in late]
        self.replica.roll.adopt(message)
        self.replica.round, self.replica.term = message.round, message.number("held_term")
        cursor = self.replica.roll.cursor(self.name)
        if self._pending and self._pending[0].stop == cursor:
            # It was used, only the news of it got lost.
            self.feedback.settle(self._pending[0].data, self._pending[0].left)
        self.cursor = cursor
        self._restart(message.round)
        self._target, self.ready = message, False
        return self._compare(now_s)

    def _compare(self, now_s: float) -> list[Message]:
        assert self._target is not None
        tree = self.replica.tree()
        if self.replica.root(tree).hex() == self._target.text("root"):
            self.ready, self._target = True, None
            self._root = self.replica.root(tree)
            return self._part() if self._parting() else []
        self._asked_s = now_s
        return [self._say(Kind.TREE, tensors=(tree_of(tree),))]

    def _heal(self, message: Message, now_s: float) -> list[Message]:
        if self._target is None or message.round != self.replica.round:
            return []
        self.replica.heal_with(message)
        self._target = message
        return self._compare(now_s)

    def _give(self, message: Message) -> list[Message]:
        mine = self.replica.tree()
        if message.round != self.replica.round or self._target or self.replica.root(mine) != self._root:
            return []
        parts = self.replica.remedy(message.tensor("tree").data, mine, HEAL_BYTES) + self.replica.roll.tensors()
        return [self._say(Kind.HEAL, self.replica.position(self._root), parts)]

    def _commit(self, message: Message, now_s: float) -> list[Message]:
        if message.round < self.replica.round:
            return []
        if not self.ready or message.round > self.replica.round:
            return self.start(now_s)
        included = self.replica.roll.span(message, self.name) > 0
        odd = any(each.name == "odd" for each in message.tensors) and self.name in odd_of(message)
        sound = self.replica.root() == self._root
        self.replica.apply(message)
        # What was built on a damaged state must not pass for whole.
        self._root = self.replica.root() if sound else b""
        mine = self._pending[0] if self._pending and self._pending[0].round == message.round else None
        if included and mine is not None:
            self._pending.pop(0)
            self.cursor = mine.stop
            self.feedback.settle(mine.data, mine.left)
        else:
            self._restart(self.replica.round)
        if not sound:
            return self._damaged(now_s)
        if self._parting():
            return self._part()
        if self.name not in self.replica.roll.voters or odd:
            return self.start(now_s)
        if included and mine is None:
            # A former life of this site sent it.
            return self.start(now_s)
        return []

    def _parting(self) -> bool:
        return self._leaving and self.name not in self.replica.roll.voters

    def _part(self) -> list[Message]:
        """Go, once the others need this site no more to be a majority of those who voted before."""
        if self.name in self.replica.roll.before:
            return [self._say(Kind.LEAVE)]
        self.left, self.ready = True, False
        return []

    def _damaged(self, now_s: float) -> list[Message]:
        """A bit flipped here. The vote may not get to hear of it, so this site asks to be healed itself."""
        self.damaged += 1
        return self.start(now_s)

    def _restart(self, round_: int) -> None:
        self._pending.clear()
        self._ticket += 1
        self._next = round_

    def _say(
        self, kind: Kind, fields: Mapping[str, object] | None = None, tensors: tuple[Packed, ...] = ()
    ) -> Message:
        return Message(kind, self.name, self.replica.round, self.term, fields or {}, tensors)
