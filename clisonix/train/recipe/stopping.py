r"""A sequential test of no further gain.

The hypothesis is that training still pays: whatever has happened so far, the next look at the validation loss is
expected to be lower by the share `gain`. Let `y` be the relative fall since the last look, clipped to `[0, 2 gain]`.
As long as `E[y | past] >= gain`,

    wealth <- wealth * (1 + bet * (gain - y) / gain),    0 <= bet < 1, chosen before the look,

is a supermartingale that is never negative and starts at 1. By Ville's inequality the odds that it ever reaches
`1 / alpha` are at most `alpha`, however often one looks (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 2024). Nothing is assumed about how losses depend on each other, and since the clipping
is even about `gain`, symmetric noise does not move the mean. The bet is the mean over the mean square of what the
last looks were worth, which is about what makes the wealth grow fastest; while the loss falls it is 0. After a loss
that fell for long stands still, `1 / alpha = 20` is reached in about 8 looks.

What it does not promise: the validation recordings stand for themselves only, and gains that come in rare leaps of
many times `gain` may be missed, since each counts as `2 gain`.
"""

from __future__ import annotations

import math
from typing import Any

_MOST = 0.95
_MEMORY = 0.5  # weight of what is one look older
_CAUTION = 0.2


class NoFurtherGain:
    """The test. One look after the other, at equal distances in steps.

    Attributes:
        wealth: what a stake of 1 has become in the hands of one who bets that training no longer pays.
        looks: taken so far.
    """

    def __init__(self, gain: float, alpha: float) -> None:
        """Begin.

        Args:
            gain: relative fall of the loss from look to look that is worth going on for, above 0.
            alpha: odds of stopping while the hypothesis holds.
        """
        self.gain, self.alpha = gain, alpha
        self.wealth, self.looks = 1.0, 0
        self._last: float | None = None
        self._sum, self._squares = 0.0, 0.0

    def look(self, loss: float) -> bool:
        """Take a finite validation loss into account; True once there is no further gain."""
        if self._last is not None:
            fall = (self._last - loss) / max(abs(self._last), 1e-12)
            worth = (self.gain - min(max(fall, 0.0), 2 * self.gain)) / self.gain
            self.wealth *= 1 + self.bet * worth
            self._sum = _MEMORY * self._sum + worth
            self._squares = _MEMORY * self._squares + worth * worth
        self._last = loss
        self.looks += 1
        return self.found

    @property
    def bet(self) -> float:
        """Share of the wealth that is at stake in the next look."""
        return min(max(self._sum / (self._squares + _CAUTION), 0.0), _MOST)

    @property
    def found(self) -> bool:
        """Whether the hypothesis is refused."""
        return self.wealth >= 1 / self.alpha

    def state_dict(self) -> dict[str, Any]:
        """As JSON; floats keep every bit."""
        return {
            "wealth": self.wealth,
            "looks": self.looks,
            "last": self._last,
            "sum": self._sum,
            "squares": self._squares,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.wealth, self.looks, self._last = state["wealth"], state["looks"], state["last"]
        self._sum, self._squares = state["sum"], state["squares"]


def epochs_with_cooldown(done: int, cooldown: float, most: int) -> int:
    """Epochs of the whole run when its last share `cooldown` begins after `done` epochs; at most `most`."""
    return min(most, done + max(1, math.ceil(done * cooldown / (1 - cooldown) - 1e-9)))
