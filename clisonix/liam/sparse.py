"""A matrix that stores only its nonzero entries."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.kernels.sparse import csr_matmul, csr_matmul_t
from clisonix.liam.matrix import Matrix, as_parameter, check_dense_float, check_finite, check_size


class Sparse(Matrix):
    """Compressed sparse rows as three plain tensors. The values learn; their places are fixed.

    Args:
        values: `(nnz,)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        crow: `(m + 1,)`, int32 or int64: the values of row `i` are `crow[i]` up to `crow[i + 1]`.
        col: `(nnz,)`, of the type of `crow`: the column of each value, without repeats in a row.
        columns: `n`.
    """

    crow: Tensor
    col: Tensor

    def __init__(self, values: Tensor, crow: Tensor, col: Tensor, columns: int) -> None:
        super().__init__()
        self.values = as_parameter(values, "values", 1)
        self.register_buffer("crow", crow.contiguous())
        self.register_buffer("col", col.contiguous())
        self.columns = columns
        _check_places(self)
        # Products trust the places, so a damaged file must not get past loading.
        self.register_load_state_dict_post_hook(_check_places)  # type: ignore[no-untyped-call]

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Sparse:
        """The nonzero entries of a dense, COO or CSR tensor `(m, n)`, detached from it.

        The places are kept as int32 where they fit, which is half of what torch uses.
        """
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise ClisonixError(
                f"A {tensor.dtype} tensor of shape {tuple(tensor.shape)} cannot become a sparse matrix; "
                "give two dimensions of floating point."
            )
        coo: Tensor = tensor.detach().to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
        rows, col = coo.indices()
        m, n = tensor.shape
        counts = torch.bincount(rows, minlength=m).cumsum(0)
        crow = torch.cat([counts.new_zeros(1), counts])
        index = torch.int32 if max(m, n, col.numel()) < 2**31 else torch.int64
        return cls(coo.values(), crow.to(index), col.to(index), n)

    @classmethod
    @torch.no_grad()
    def largest(cls, weight: Tensor, density: float) -> Sparse:
        """The `density` part of the entries of `weight` that is largest in size, detached from it.

        Args:
            weight: `(m, n)`, finite floating point.
            density: in [0, 1]; the number of entries is rounded to the nearest. A kept entry that is zero
                takes no place.
        """
        check_dense_float(weight, "weight", 2)
        if not 0.0 <= density <= 1.0:
            raise ClisonixError(f"density={density!r} is out of range; give the fraction to keep, in [0, 1].")
        flat = check_finite(weight, "weight").flatten()
        kept = flat.abs().topk(round(density * flat.numel())).indices
        return cls.from_tensor(torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view(weight.shape))

    @property
    def shape(self) -> tuple[int, int]:
        return self.crow.shape[0] - 1, self.columns

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, -1, self, self.columns)
        return csr_matmul(x, self.values, self.crow, self.col, self.columns)

    def adjoint(self, x: Tensor) -> Tensor:
        check_size(x, -1, self, self.crow.shape[0] - 1)
        return csr_matmul_t(x, self.values, self.crow, self.col, self.columns)

    def dense(self) -> Tensor:
        zeros = self.values.new_zeros(self.shape)
        return zeros.index_put((self._rows(), self.col.long()), self.values, accumulate=True)

    def coo(self) -> Tensor:
        """The same entries as a torch COO tensor `(m, n)` through which gradients reach the values."""
        places = torch.stack([self._rows(), self.col.long()])
        return torch.sparse_coo_tensor(places, self.values, self.shape, is_coalesced=True, check_invariants=False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.values.shape[0]} values"

    def _rows(self) -> Tensor:
        m, nnz = self.crow.shape[0] - 1, self.col.shape[0]
        rows = torch.arange(m, device=self.crow.device)
        return rows.repeat_interleave(self.crow.diff().long(), output_size=nnz)


def _check_places(module: nn.Module, _incompatible: object = None) -> None:
    """Raise unless `crow` and `col` describe places inside the matrix."""
    matrix = cast(Sparse, module)
    crow, col, nnz, n = matrix.crow, matrix.col, matrix.values.shape[0], matrix.columns
    if crow.is_meta:
        return
    index_types = crow.dtype == col.dtype and crow.dtype in (torch.int32, torch.int64)
    sizes = crow.ndim == 1 and crow.numel() > 0 and col.shape == (nnz,)
    if not (index_types and sizes):
        raise ClisonixError(
            f"crow is {crow.dtype} {tuple(crow.shape)} and col is {col.dtype} {tuple(col.shape)} for {nnz} "
            "values; give int32 or int64 of (m + 1,) and (nnz,)."
        )
    ordered = int(crow[0]) == 0 and int(crow[-1]) == nnz and bool((crow.diff() >= 0).all())
    inside = nnz == 0 or (int(col.min()) >= 0 and int(col.max()) < n)
    if not (ordered and inside):
        raise ClisonixError(
            f"crow must rise from 0 to {nnz} and col must lie in 0..{n - 1}, but they do not; "
            "the matrix was built from, or loaded from, damaged data."
        )
