"""The square root of the second moment of the vectors that a matrix will multiply."""

from __future__ import annotations

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import check_dense_float, check_finite


def roots(moment: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Factors `(n, n)` in float64: `root @ root.T = moment`, and `to_inputs` the pseudo-inverse of `root`.

    `root` is the symmetric square root times an orthogonal matrix, which changes neither norms nor
    the left singular vectors and saves a product.
    """
    check_dense_float(moment, "The second moment", 2)
    if moment.shape != (n, n):
        raise ClisonixError(
            f"The second moment has shape {tuple(moment.shape)}; a matrix with {n} columns needs ({n}, {n})."
        )
    wide = check_finite(moment.double(), "the second moment")
    values, vectors = torch.linalg.eigh((wide + wide.mT) / 2)
    if n == 0:
        return vectors, vectors
    largest = values[-1].clamp(min=0)
    if values[0] < -1e-3 * values.abs().max():
        raise ClisonixError(
            f"The second moment has a negative eigenvalue {float(values[0]):.3g} beside the largest "
            f"{float(values[-1]):.3g}; give mean(v vᵀ) over the inputs, which has none."
        )
    noise = max(n * torch.finfo(torch.float64).eps, torch.finfo(moment.dtype).eps)
    found = torch.where(values > noise * largest, values, 0.0).sqrt()
    inverse = torch.where(found > 0, 1 / found, 0.0)
    return vectors * found, inverse[:, None] * vectors.mT
