"""Which masked form a pattern means."""

from __future__ import annotations

from torch import Tensor

from clisonix.errors import ClisonixError, nearest
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse


def sparsify(
    weight: Tensor, density: float | None, pattern: str | int | tuple[int, int], moments: Tensor | None
) -> Sparse | BlockSparse | SemiSparse:
    """See `BinaryAlgebra.sparsify`."""
    if isinstance(pattern, str) and pattern not in ("any", "2:4"):
        raise ClisonixError(
            f"pattern={pattern!r} is unknown{nearest(pattern, ('any', '2:4'))}; a block size is a number or a pair."
        )
    if pattern == "2:4":
        if density not in (None, 0.5):
            raise ClisonixError(
                f'density={density!r} does not go with pattern="2:4", which keeps half; leave it out.'
            )
        return SemiSparse.nearest(weight, moments)
    if density is None:
        raise ClisonixError(f"pattern={pattern!r} needs a density; give the fraction to keep, in [0, 1].")
    if isinstance(pattern, str):
        return Sparse.largest(weight, density, moments)
    return BlockSparse.largest(weight, density, pattern, moments)
