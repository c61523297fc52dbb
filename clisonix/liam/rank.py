"""How many singular values to keep."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError


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
    check_target(k, energy, tol)
    count = int(singular_values.numel())
    if k is not None:
        return min(k, count)
    squares = singular_values.to(torch.float64).square()
    # tail[r] is the squared error of rank r: summed from the small end, so it is accurate where it is small.
    tail = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    allowed = (1.0 - energy if energy is not None else float(tol or 0.0) ** 2) * tail[0]
    enough = int((tail > allowed).sum())
    return min(max(enough, 1), count)
