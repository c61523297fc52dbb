"""The front door of the algebra."""

from __future__ import annotations

from torch import Tensor

from clisonix.liam.binary import Binary
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.sparse import Sparse
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

    def transform_matrix(self, data: Tensor | Matrix, weights: Tensor | Matrix) -> Tensor | Matrix:
        """`data @ weights`, using whatever zeros or structure either side has.

        Args:
            data: `(n, d)`: a dense tensor (also `(d,)` or `(..., d)`), a sparse tensor (COO or CSR), a
                `torch_sparse.SparseTensor`, or a `Matrix`.
            weights: `(d, k)`: any of the same, of the same dtype and device.

        Returns:
            A lazy `Matrix` of two matrices; a sparse tensor (CSR when `data` is CSR, else COO) of two
            sparse operands; a dense tensor `(n, k)` otherwise. Gradients reach both sides.

        Raises:
            ClisonixError: the two sides differ in inner size, dtype or device, or one has no such form.
        """
        return transform(data, weights)

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

    def binarize(self, w: Tensor) -> Binary:
        """The closest matrix of signs with one scale per row: 1 bit a weight.

        Args:
            w: `(m, n)`, a finite dense tensor.
        """
        return Binary.nearest(w)

    def ternarize(self, w: Tensor) -> Ternary:
        """The closest matrix of -1, 0 and +1 with one scale per row: 2 bits a weight.

        Args:
            w: `(m, n)`, a finite dense tensor.
        """
        return Ternary.nearest(w)

    def quantize(self, w: Tensor, *, bits: int, group: int = 64) -> Integer:
        """`w` rounded to `2**bits` levels, with one scale for each `group` columns of a row.

        Args:
            w: `(m, n)`, a finite dense tensor.
            bits: 2 to 8.
            group: columns that share a scale.
        """
        return Integer.rounded(w, bits, group)

    def sparsify(self, w: Tensor, *, density: float) -> Sparse:
        """The largest entries of `w`: the closest matrix with that many nonzeros.

        Args:
            w: `(m, n)`, a finite dense tensor.
            density: fraction of the entries to keep, in [0, 1].
        """
        return Sparse.largest(w, density)
