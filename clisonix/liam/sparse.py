"""A matrix that stores only its nonzero entries."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t
from clisonix.kernels.sparse_torch import hear_beta_warning_once
from clisonix.liam.compressed import compressed, from_torch_sparse, is_torch_sparse
from clisonix.liam.matrix import Matrix, as_parameter, check_input
from clisonix.liam.scores import check_density, most_important


class Sparse(Matrix):
    """Compressed sparse rows as three plain tensors. The values learn; their places are fixed.

    Set the attribute `backend` to "own", "torch" or "torch_sparse" to pin what computes its products; see
    `clisonix.kernels.sparse_backends` for what happens otherwise.

    Args:
        values: `(nnz,)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        crow: `(m + 1,)`, int32 or int64: the values of row `i` are `crow[i]` up to `crow[i + 1]`.
        col: `(nnz,)`, of the type of `crow`: the column of each value, without repeats in a row.
        columns: `n`.
    """

    crow: Tensor
    col: Tensor
    backend: str = ""

    def __init__(self, values: Tensor, crow: Tensor, col: Tensor, columns: int) -> None:
        super().__init__()
        self.values = as_parameter(values, "values", 1)
        self.register_buffer("crow", crow.contiguous())
        self.register_buffer("col", col.contiguous())
        self.columns = columns
        _check(self)
        # Products trust the places, so a damaged file must not get past loading.
        self.register_load_state_dict_post_hook(_check)  # type: ignore[no-untyped-call]

    @classmethod
    @torch.no_grad()
    def from_tensor(cls, tensor: Tensor) -> Sparse:
        """The nonzero entries of a dense tensor `(m, n)`, or the entries of a sparse one, detached from it.

        The places are kept as int32 where they fit, which is half of what torch uses.

        Args:
            tensor: dense, a torch sparse tensor of any layout, or a `torch_sparse.SparseTensor`.
        """
        if is_torch_sparse(tensor):
            rows = from_torch_sparse(tensor, torch.get_default_dtype())
        elif tensor.ndim != 2 or not tensor.is_floating_point():
            raise ClisonixError(
                f"A {tensor.dtype} tensor of shape {tuple(tensor.shape)} cannot become a sparse matrix; "
                "give two dimensions of floating point."
            )
        elif tensor.layout == torch.strided:
            hear_beta_warning_once()
            rows = compressed(tensor.to_sparse_csr())
        elif tensor.layout in (torch.sparse_coo, torch.sparse_csr):
            rows = compressed(tensor)
        else:
            rows = compressed(tensor.to_sparse_coo())  # type: ignore[no-untyped-call]
        index = torch.int32 if max(*rows.shape, rows.col.numel()) < 2**31 else torch.int64
        return cls(rows.values, rows.crow.to(index), rows.col.to(index), rows.shape[1])

    @classmethod
    @torch.no_grad()
    def largest(cls, weight: Tensor, density: float, moments: Tensor | None = None) -> Sparse:
        """The `density` part of the entries of `weight` that matters most, detached from it.

        Args:
            weight: `(m, n)`, finite floating point.
            density: in [0, 1]; the number of entries is rounded to the nearest. A kept entry that is zero
                takes no place.
            moments: second moments of the inputs, `(n,)` or `(n, n)`; see `clisonix.liam.scores`.
        """
        score = most_important(weight, moments)
        kept = score.flatten().topk(check_density(density, score.numel())).indices
        flat = weight.flatten()
        return cls.from_tensor(torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view(weight.shape))

    @property
    def shape(self) -> tuple[int, int]:
        return self.crow.shape[0] - 1, self.columns

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.columns, self.values)
        return sparse_matmul(x, self.values, self.crow, self.col, self.shape, self.backend)

    def adjoint(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.crow.shape[0] - 1, self.values)
        return sparse_matmul_t(x, self.values, self.crow, self.col, self.shape, self.backend)

    def dense(self) -> Tensor:
        zeros = self.values.new_zeros(self.shape)
        return zeros.index_put((row_numbers(self.crow, self.col), self.col.long()), self.values, accumulate=True)

    def coo(self) -> Tensor:
        """The same entries as a torch COO tensor `(m, n)` through which gradients reach the values."""
        places = torch.stack([row_numbers(self.crow, self.col), self.col.long()])
        return torch.sparse_coo_tensor(places, self.values, self.shape, is_coalesced=True, check_invariants=False)

    def csr(self) -> Tensor:
        """The same entries as a torch CSR tensor `(m, n)` on the same memory; gradients reach the values."""
        hear_beta_warning_once()
        return torch.sparse_csr_tensor(self.crow, self.col, self.values, self.shape, check_invariants=False)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.values.shape[0]} values"


def row_numbers(crow: Tensor, col: Tensor) -> Tensor:
    """The row of each value, int64."""
    rows = torch.arange(crow.shape[0] - 1, device=crow.device)
    return rows.repeat_interleave(crow.diff().long(), output_size=col.shape[0])


def check_places(crow: Tensor, col: Tensor, count: int, columns: int) -> None:
    """Raise unless `crow` and `col` describe `count` places in rows of `columns`."""
    if crow.is_meta:
        return
    index_types = crow.dtype == col.dtype and crow.dtype in (torch.int32, torch.int64)
    sizes = crow.ndim == 1 and crow.numel() > 0 and col.shape == (count,)
    if not (index_types and sizes):
        raise ClisonixError(
            f"crow is {crow.dtype} {tuple(crow.shape)} and col is {col.dtype} {tuple(col.shape)} for {count} "
            "values; give int32 or int64 of (m + 1,) and (nnz,)."
        )
    ordered = int(crow[0]) == 0 and int(crow[-1]) == count and bool((crow[1:] >= crow[:-1]).all())
    inside = count == 0 or (int(col.min()) >= 0 and int(col.max()) < columns)
    if not (ordered and inside):
        raise ClisonixError(
            f"crow must rise from 0 to {count} and col must lie in 0..{columns - 1}, but they do not; "
            "the matrix was built from, or loaded from, damaged data."
        )


def _check(module: nn.Module, _incompatible: object = None) -> None:
    matrix = cast(Sparse, module)
    check_places(matrix.crow, matrix.col, matrix.values.shape[0], matrix.columns)
