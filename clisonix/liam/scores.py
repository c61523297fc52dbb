"""How much each entry of a weight matters, for choosing which to keep."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import check_dense_float, check_finite


def most_important(weight: Tensor, moments: Tensor | None = None) -> Tensor:
    """`|w|`, or `|w| * sqrt(moment of its input)`, of each entry.

    Without moments, keeping the largest gives the closest matrix with so many entries. With them it gives the least
    expected squared error of the outputs as far as inputs are uncorrelated: the score of Sun, Liu, Bair, Kolter, "A
    Simple and Effective Pruning Approach for Large Language Models" (2023), here compared over the whole matrix.

    Args:
        weight: `(m, n)`, finite floating point.
        moments: mean of `x * x` for each input `(n,)`, or of all their products `(n, n)`, whose diagonal is used.

    Returns:
        `(m, n)`, nonnegative, in float32 or wider.

    Raises:
        ClisonixError: `weight` or `moments` is of another kind, or `moments` are negative.
    """
    check_dense_float(weight, "weight", 2)
    size = check_finite(weight, "weight").abs().to(torch.promote_types(weight.dtype, torch.float32))
    if moments is None:
        return size
    n = weight.shape[1]
    check_dense_float(moments, "moments", 2 if moments.ndim == 2 else 1)
    if moments.shape not in ((n,), (n, n)):
        raise ClisonixError(
            f"moments have the shape {tuple(moments.shape)}, but a weight of shape {tuple(weight.shape)} has {n} "
            f"inputs; give ({n},) or ({n}, {n})."
        )
    each = check_finite(moments.diagonal() if moments.ndim == 2 else moments, "moments")
    if bool((each < 0).any()):
        raise ClisonixError("Some second moments are negative; give means of squares.")
    return size * each.to(size).sqrt()


def check_density(density: float, count: int) -> int:
    """How many of `count` things `density` keeps.

    Raises:
        ClisonixError: it is not in [0, 1].
    """
    if not 0.0 <= density <= 1.0:
        raise ClisonixError(f"density={density!r} is out of range; give the fraction to keep, in [0, 1].")
    return round(density * count)
