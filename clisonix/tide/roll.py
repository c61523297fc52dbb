"""Every site that ever took part, whether it votes, and how far its stream has been used: part of the state."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from clisonix.tide.message import Message, Packed, Refused


class Roll:
    """Names in order, with a vote and a cursor each.

    After a change of voters a majority of the old ones is needed as well, until it is certain that the change is
    widely held (joint consensus, Ongaro and Ousterhout 2014, section 6); otherwise the sites that do not know of it
    could form a majority of their own. Until then no other change is made.

    Args:
        voters: at the beginning.
    """

    def __init__(self, voters: Iterable[str] = ()) -> None:
        self.names = tuple(sorted(set(voters)))
        self.cursors = np.zeros(len(self.names), np.int64)
        self._votes = np.ones(len(self.names), np.bool_)
        self._before = self._votes.copy()
        self.unsettled = 0
        self._refresh()

    def _refresh(self) -> None:
        self.voters = tuple(name for name, votes in zip(self.names, self._votes.tolist(), strict=True) if votes)
        self.before = tuple(name for name, votes in zip(self.names, self._before.tolist(), strict=True) if votes)
        self._places = np.flatnonzero(self._votes)
        self._fixed = hashlib.sha256("\n".join(self.names).encode() + self._votes.tobytes()).digest()

    def cursor(self, name: str) -> int:
        """The next window of a site; 0 for one that was never here."""
        index = bisect_left(self.names, name)
        return int(self.cursors[index]) if index < len(self.names) and self.names[index] == name else 0

    def is_quorum(self, present: Collection[str]) -> bool:
        """Are these a majority, and of the voters before an unsettled change as well?"""
        for voters in {self.voters, self.before}:
            if sum(name in present for name in voters) < len(voters) // 2 + 1:
                return False
        return True

    def concerned(self) -> list[str]:
        """Who decides: the voters, and those before an unsettled change."""
        return sorted({*self.voters, *self.before})

    def spans(self, used: Iterable[tuple[str, int]]) -> Packed:
        """How many windows of each voter a commit uses, as a tensor of a message."""
        spans = np.zeros(len(self.voters), np.int64)
        for name, span in used:
            spans[self.voters.index(name)] = span
        return Packed.raw("spans", spans.astype(np.int16) if spans.max(initial=0) < 2**15 else spans)

    def span(self, commit: Message, name: str) -> int:
        """How many windows of a voter a commit uses; 0 where its update was not used."""
        index = bisect_left(self.voters, name)
        if index >= len(self.voters) or self.voters[index] != name:
            return 0
        return int(self._spans(commit)[index])

    def check(self, commit: Message) -> None:
        """Refuse a commit that does not fit these voters."""
        self._spans(commit)

    def take(self, commit: Message, lag: int) -> None:
        """Advance the cursors and change the voters as a commit says."""
        self.cursors[self._places] += self._spans(commit)
        joined, left = commit.names("joined"), commit.names("left")
        if joined or left:
            self._before = self._votes.copy()
            self._admit(joined)
            for name in left:
                self._votes[bisect_left(self.names, name)] = False
            self.unsettled = lag + 1
            self._refresh()
        elif self.unsettled:
            self.unsettled -= 1
            if not self.unsettled:
                self._before = self._votes.copy()
                self._refresh()

    def tensors(self) -> tuple[Packed, ...]:
        """Everything but the names, for a message."""
        flags = np.stack([self._votes, self._before]).astype(np.uint8)
        return (
            Packed.raw("roll/cursors", self.cursors),
            Packed.raw("roll/votes", flags),
            Packed.raw("roll/unsettled", np.array([self.unsettled], np.uint8)),
        )

    def adopt(self, message: Message) -> None:
        """Become the roll of a message.

        Raises:
            Refused: it does not hold one.
        """
        names = message.names("names")
        cursors = message.tensor("roll/cursors").array()
        flags = message.tensor("roll/votes").array()
        number = len(names)
        unsettled = message.tensor("roll/unsettled").array()
        fits = cursors.shape == (number,) and flags.shape == (2, number) and unsettled.shape == (1,)
        if not fits or cursors.dtype != np.int64 or flags.dtype != np.uint8 or sorted(set(names)) != list(names):
            raise Refused("malformed", f"the roll that {message.sender!r} sent does not fit its names")
        self.names = tuple(names)
        self.cursors = np.array(cursors, np.int64)
        self._votes, self._before = (flags[index].astype(np.bool_) for index in range(2))
        self.unsettled = int(unsettled[0])
        self._refresh()

    def fingerprint(self) -> bytes:
        """What of it goes into the digest of the state."""
        return b"".join((self._fixed, bytes([self.unsettled]), self.cursors.tobytes()))

    def _spans(self, commit: Message) -> NDArray[np.int64]:
        sent = commit.tensor("spans").array()
        spans = sent.astype(np.int64)
        if sent.shape != (len(self.voters),) or sent.dtype.kind != "i" or (spans < 0).any():
            raise Refused("malformed", f"a commit of {spans.shape} spans came to a roll of {len(self.voters)} voters")
        return spans

    def _admit(self, joined: Sequence[str]) -> None:
        new = sorted(set(joined) - set(self.names))
        if new:
            names = [*self.names, *new]
            order = sorted(range(len(names)), key=names.__getitem__)
            none = np.zeros(len(new), np.bool_)
            self.names = tuple(names[index] for index in order)
            self.cursors = np.concatenate([self.cursors, np.zeros(len(new), np.int64)])[order]
            self._votes = np.concatenate([self._votes, none])[order]
            self._before = np.concatenate([self._before, none])[order]
        for name in joined:
            self._votes[bisect_left(self.names, name)] = True
