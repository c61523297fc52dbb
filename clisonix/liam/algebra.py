"""The front door of the algebra."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clisonix.liam.binary import Binary
from clisonix.liam.blocksparse import BlockSparse
from clisonix.liam.factorize import factorize
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.metric import Metric
from clisonix.liam.rounding import rounded_binary, rounded_integer, rounded_ternary
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse
from clisonix.liam.sparsify import sparsify
from clisonix.liam.svd import svd_compress
from clisonix.liam.transform import transform


class BinaryAlgebra:
    """Multiply, compress and pack matrices without choosing a form first.

    >>> import torch
    >>> from clisonix.liam import BinaryAlgebra
    >>> data, weights = torch.ones(100, 64), torch.ones(64, 48)
    >>> algebra = BinaryAlgebra()
    >>> transformed = algebra.transform_matrix(data, weights)
    >>> compressed = algebra.svd_compress(transformed, k=32)
    >>> compressed
    LowRank(100×48, float32, 18944 bytes, rank 32)
    >>> torch.allclose(compressed.dense(), transformed, atol=1e-3)
    True
    """

    def transform_matrix(
        self, data: Tensor | Matrix, weights: Tensor | Matrix, *, backend: str = ""
    ) -> Tensor | Matrix:
        """`data @ weights`, using whatever zeros or structure either side has.

        Args:
            data: `(n, d)`: a dense tensor (also `(d,)` or `(..., d)`), a sparse tensor of any layout, a
                `torch_sparse.SparseTensor`, or a `Matrix`. A COO tensor is coalesced if it is not; CSR is best.
            weights: `(d, k)`: any of the same, of the same dtype and device; under autocast of any half or single
                precision.
            backend: "own", "torch" or "torch_sparse" pins what multiplies sparse tensors with dense ones; by default
                `clisonix.kernels.sparse_backends` chooses.

        Returns:
            A lazy `Matrix` of two matrices; a sparse tensor (CSR when `data` is CSR, else COO) of two
            sparse operands; a dense tensor `(n, k)` otherwise. Gradients reach both sides.

        Raises:
            ClisonixError: the two sides differ in inner size, dtype or device, or one has no such form.
        """
        return transform(data, weights, backend)

    def svd_compress(
        self, x: Tensor | Matrix, k: int | None = 32, *, energy: float | None = None, tol: float | None = None
    ) -> LowRank:
        """The closest matrix of rank `k`, or of the smallest rank that keeps `energy` or meets `tol`.

        Args:
            x: `(m, n)`, a dense tensor or a matrix.
            k: rank, used when neither of the others is given; at most `min(m, n)` is kept.
            energy: fraction of the squared norm to keep, in (0, 1].
            tol: relative error allowed, in [0, 1).

        Returns:
            A `LowRank`, detached from `x`; see `clisonix.liam.svd_compress` for weighting and methods.
        """
        rank = k if energy is None and tol is None else None
        return svd_compress(x, k=rank, energy=energy, tol=tol)

    def binarize(self, w: Tensor, *, moments: Tensor | None = None) -> Binary:
        """The closest matrix of signs with one scale per row: 1 bit a weight.

        Args:
            w: `(m, n)`, a finite dense tensor.
            moments: second moments of the inputs, as for `quantize`; without them the result is the closest there is.
        """
        return rounded_binary(w, metric=Metric(w, moments))

    def ternarize(self, w: Tensor, *, moments: Tensor | None = None) -> Ternary:
        """The closest matrix of -1, 0 and +1 with one scale per row: 2 bits a weight.

        Args:
            w: `(m, n)`, a finite dense tensor.
            moments: second moments of the inputs, as for `quantize`; without them the result is the closest there is.
        """
        return rounded_ternary(w, metric=Metric(w, moments))

    def quantize(self, w: Tensor, *, bits: int, group: int = 64, moments: Tensor | None = None) -> Integer:
        """`w` rounded to `2**bits` levels, with one scale for each `group` columns of a row.

        Args:
            w: `(m, n)`, a finite dense tensor.
            bits: 2 to 8.
            group: columns that share a scale.
            moments: `mean(v vᵀ)` over the inputs `v`, `(n, n)`, or its diagonal `(n,)`. Rounding then changes the
                outputs least instead of the entries; see `clisonix.liam.rounding`.
        """
        return rounded_integer(w, bits, group, metric=Metric(w, moments))

    def factorize(
        self,
        w: Tensor,
        bits: float,
        *,
        moments: Tensor | None = None,
        output_weights: Tensor | None = None,
        forms: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Matrix:
        """The best form for that many bits a weight, scales included: the least weighted error of all that fit.

        Args:
            w: `(m, n)`, a finite dense tensor.
            bits: for each entry of `w`.
            moments: second moments of the inputs, as for `quantize`.
            output_weights: `(m,)`, how much the squared error of each output counts.
            forms: the forms to try; `clisonix.liam.candidates` names them, and returns all with their errors.
            dtype: of scales and of all that is not packed; that of `w` by default.
        """
        return factorize(w, bits, moments=moments, output_weights=output_weights, forms=forms, dtype=dtype)

    def sparsify(
        self,
        w: Tensor,
        *,
        density: float | None = None,
        pattern: str | int | tuple[int, int] = "any",
        moments: Tensor | None = None,
    ) -> Sparse | BlockSparse | SemiSparse:
        """The entries of `w` that matter most: without moments, the closest matrix of its form.

        Args:
            w: `(m, n)`, a finite dense tensor.
            density: fraction of entries, or of blocks, to keep, in [0, 1]; "2:4" keeps half, so it takes none.
            pattern: "any" keeps single entries, "2:4" two of every four columns in each row, and a size (a number or
                `(rows, columns)`) whole blocks.
            moments: second moments of the inputs, `(n,)` or `(n, n)`; an entry then counts by its size times the root
                of the moment of its input.
        """
        return sparsify(w, density, pattern, moments)
