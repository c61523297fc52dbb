"""How many singular values to keep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.errors import ClisonixError


@dataclass(frozen=True)
class Target:
    """Exactly one of the three: a rank, a part of the squared norm to keep, or a relative error allowed.

    Raises:
        ClisonixError: none or several, or one out of its range.
    """

    k: int | None = None
    energy: float | None = None
    tol: float | None = None

    def __post_init__(self) -> None:
        check_target(self.k, self.energy, self.tol)

    @property
    def share(self) -> float:
        """The part of the squared norm that may be lost; nothing says so when a rank is given."""
        return 1.0 - self.energy if self.energy is not None else float(self.tol or 0.0) ** 2

    def choose(self, squares: Tensor, total: float) -> int | None:
        """The smallest rank that meets the target, when only the leading singular values are known.

        Args:
            squares: `(r,)`, float64, the squared singular values that are known, in descending order.
            total: the sum of all squared singular values, which is the squared norm of the matrix.

        Returns:
            None when all `r` together leave more than allowed; else at least 1, unless there are none at all.
        """
        count = int(squares.numel())
        if self.k is not None:
            return min(self.k, count)
        kept = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
        enough = (total - kept <= self.share * total).nonzero()
        return None if enough.numel() == 0 else min(max(int(enough[0]), 1), count)


def check_target(k: int | None, energy: float | None, tol: float | None) -> None:
    """Raise unless exactly one of the three is given and is in its range."""
    given = {name: value for name, value in (("k", k), ("energy", energy), ("tol", tol)) if value is not None}
    if len(given) != 1:
        what = " and ".join(given) or "none of them"
        raise ClisonixError(f"Give exactly one of k, energy and tol; {what} was given.")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ClisonixError(f"k={k!r} is no rank; give a whole number of at least 1.")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ClisonixError(f"energy={energy!r} is out of range; give the fraction to keep, in (0, 1].")
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ClisonixError(f"tol={tol!r} is out of range; give a relative error in [0, 1).")


def choose_rank(
    singular_values: Tensor, *, k: int | None = None, energy: float | None = None, tol: float | None = None
) -> int:
    """The smallest rank that meets the target.

    Args:
        singular_values: `(min(m, n),)`, in descending order, complete.
        k: the rank itself. More than there are singular values is the same as all of them: every rank
            above `min(m, n)` describes the same matrix with more bytes.
        energy: fraction of the squared Frobenius norm to keep, in (0, 1].
        tol: relative Frobenius error allowed, in [0, 1).

    Returns:
        At least 1 where there is a singular value at all, so that a layer made of it can still learn.
    """
    target = Target(k, energy, tol)
    count = int(singular_values.numel())
    if k is not None:
        return min(k, count)
    squares = singular_values.to(torch.float64).square()
    # tail[r] is the squared error of rank r: summed from the small end, so it is accurate where it is small.
    tail = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    enough = int((tail > target.share * tail[0]).sum())
    return min(max(enough, 1), count)
