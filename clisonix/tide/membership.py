"""Who votes, who wants to, and who has been silent too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence


class Membership:
    """Bookkeeping of a coordinator; changes take effect by a commit, which a majority of the old voters decides.

    So a group that loses sites one after the other goes on with fewer, and the smaller part of a group that was cut
    in two never goes on at all.

    Args:
        patience: rounds that a voter may miss in a row.

    Attributes:
        away: who is known not to answer, such as a site whose connection is gone; no round waits for them.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.joining: set[str] = set()
        self.leaving: set[str] = set()
        self.away: set[str] = set()
        self._missed: Counter[str] = Counter()

    def asks_to_join(self, site: str) -> None:
        """From the next commit on it votes."""
        self.joining.add(site)
        self.leaving.discard(site)

    def asks_to_leave(self, site: str) -> None:
        """From the next commit on it does not."""
        self.leaving.add(site)
        self.joining.discard(site)

    def awaited(self, voters: Sequence[str]) -> int:
        """How many voters a round waits for before its time is up."""
        return len(voters) - len((self.leaving | self.away).intersection(voters))

    def close_round(
        self, voters: Sequence[str], present: Collection[str], settled: bool
    ) -> tuple[list[str], list[str]]:
        """Who joins and who leaves with the commit of a round.

        Args:
            voters: before it.
            present: those that answered.
            settled: is the last change widely held? Otherwise there is no other yet.
        """
        for site in voters:
            if site in present:
                self._missed.pop(site, None)
            else:
                self._missed[site] += 1
        if not settled:
            return [], []
        silent = {site for site, count in self._missed.items() if count >= self.patience}
        left = sorted((self.leaving | silent).intersection(voters))
        joined = sorted(self.joining - set(voters))
        if len(left) == len(voters) and not joined:
            left = []  # the last one leaves by stopping the run, not by leaving nobody to vote
        for site in left:
            self._missed.pop(site, None)
        self.joining.clear()
        self.leaving.difference_update(left)
        return joined, left
