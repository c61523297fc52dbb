"""A sparse tensor of any layout as its compressed rows: the same memory, seen one way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t

SPARSE_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@dataclass(frozen=True)
class Compressed:
    """A matrix by the compressed rows of itself, or, `transposed`, of its transpose.

    Args:
        values: `(nnz,)`, or blocks `(nnz, br, bc)`.
        crow: where each row (of blocks) begins.
        col: the column (of blocks) of each value.
        shape: of what is compressed by rows, so of the transpose where `transposed`.
        transposed: whether it is the transpose.
    """

    values: Tensor
    crow: Tensor
    col: Tensor
    shape: tuple[int, int]
    transposed: bool = False

    def matmul(self, x: Tensor, backend: str = "") -> Tensor:
        """The matrix times `x (columns, k)`."""
        return self.rows_times(x.mT, backend).mT

    def rows_times(self, x: Tensor, backend: str = "") -> Tensor:
        """`x @ A.T`: `(..., columns)` to `(..., rows)`."""
        product = sparse_matmul_t if self.transposed else sparse_matmul
        return product(x, self.values, self.crow, self.col, self.shape, backend)

    def rows_times_t(self, x: Tensor, backend: str = "") -> Tensor:
        """`x @ A`: `(..., rows)` to `(..., columns)`."""
        product = sparse_matmul if self.transposed else sparse_matmul_t
        return product(x, self.values, self.crow, self.col, self.shape, backend)


@dataclass(frozen=True)
class SparseOperand:
    """A torch sparse tensor, or a `torch_sparse.SparseTensor`, as one side of a product.

    Args:
        tensor: the tensor.
        turned: whether its transpose is meant.
    """

    tensor: Any
    turned: bool = False

    @classmethod
    def of(cls, value: object) -> SparseOperand | None:
        """`value` as an operand, or None where it is no sparse tensor."""
        is_sparse = isinstance(value, Tensor) and value.layout in SPARSE_LAYOUTS
        return cls(value) if is_sparse or is_torch_sparse(value) else None

    @property
    def kind(self) -> str:
        """The layout, as an error names it."""
        return str(self.tensor.layout).removeprefix("torch.") if isinstance(self.tensor, Tensor) else "SparseTensor"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that is meant."""
        shape = self.tensor.shape if isinstance(self.tensor, Tensor) else self.tensor.sizes()
        return tuple(shape)[::-1] if self.turned else tuple(shape)

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the values; None for a `SparseTensor` that has none, whose entries are ones of any type."""
        if isinstance(self.tensor, Tensor) or self.tensor.has_value():
            dtype: torch.dtype = self.tensor.dtype if isinstance(self.tensor, Tensor) else self.tensor.dtype()
            return dtype
        return None

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = self.tensor.device if isinstance(self.tensor, Tensor) else self.tensor.device()
        return device

    @property
    def T(self) -> SparseOperand:  # noqa: N802 - the field's name
        """The transpose: the same tensor."""
        return replace(self, turned=not self.turned)

    def rows(self, dtype: torch.dtype | None) -> Compressed:
        """The compressed rows, through which gradients reach the values.

        Nothing is copied, except that a COO tensor that is not coalesced is coalesced first.

        Args:
            dtype: of the ones that stand for values where there are none.
        """
        rows = compressed(self.tensor) if isinstance(self.tensor, Tensor) else from_torch_sparse(self.tensor, dtype)
        return replace(rows, transposed=not rows.transposed) if self.turned else rows

    def coo(self, dtype: torch.dtype) -> Tensor:
        """The entries as a COO tensor of `dtype`, coalesced; gradients reach the values."""
        if isinstance(self.tensor, Tensor):
            coo: Tensor = self.tensor.to_sparse_coo()  # type: ignore[no-untyped-call]
        else:
            row, col, values = self.tensor.coo()
            if values is None:
                values = torch.ones(col.shape, dtype=dtype, device=col.device)
            places, size = torch.stack([row, col]), tuple(self.tensor.sizes())
            coo = torch.sparse_coo_tensor(places, _numbers(values, self.tensor), size, check_invariants=False)
        return (coo.mT if self.turned else coo).coalesce().to(dtype)

    def dense_blocks(self, entries: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Dense blocks `(rows, d)` that together are the matrix; at least one, so an empty one has a shape.

        Args:
            entries: about how many of a block.
            dtype: of ones that stand for values where there are none.
        """
        rows = self.rows(dtype)
        if rows.transposed or rows.values.ndim > 1:
            rows = compressed(self.coo(self.dtype or dtype))
        n, d = rows.shape
        step = max(1, entries // max(d, 1))
        for start in range(0, max(n, 1), step):
            crow = rows.crow[start : start + step + 1]
            part = slice(int(crow[0]), int(crow[-1]))
            count = crow.shape[0] - 1
            places = torch.arange(count, device=crow.device).repeat_interleave(crow.diff().long())
            zeros = rows.values.new_zeros(count, d)
            yield zeros.index_put((places, rows.col[part].long()), rows.values[part], accumulate=True)


def compressed(x: Tensor) -> Compressed:
    """The compressed rows of a torch sparse tensor `(m, n)`; see `SparseOperand.rows`."""
    m, n = x.shape
    if x.layout == torch.sparse_coo:
        coo: Tensor = x.coalesce()
        rows, col = coo.indices()
        return Compressed(_numbers(coo.values(), x), row_starts(rows, m), col, (m, n))
    if x.layout in (torch.sparse_csr, torch.sparse_bsr):
        return Compressed(x.values(), x.crow_indices(), x.col_indices(), (m, n))
    values: Tensor = x.values()
    # The blocks of a transpose are transposed themselves; products read them in either order.
    return Compressed(values.mT if values.ndim == 3 else values, x.ccol_indices(), x.row_indices(), (n, m), True)


def row_starts(rows: Tensor, m: int) -> Tensor:
    """Where each of `m` rows begins among the sorted row numbers `rows`: `(m + 1,)` of their type."""
    places = torch.arange(m + 1, device=rows.device, dtype=rows.dtype)
    return torch.searchsorted(rows, places, out_int32=rows.dtype == torch.int32)


def is_torch_sparse(value: object) -> bool:
    """Whether `value` is a `torch_sparse.SparseTensor`.

    By name: importing that package loads compiled code, and whoever holds such a tensor has done so already.
    """
    return type(value).__module__.split(".")[0] == "torch_sparse"


def from_torch_sparse(x: Any, dtype: torch.dtype | None) -> Compressed:  # noqa: ANN401 - a class of no base
    """The compressed rows of a `torch_sparse.SparseTensor`; without values its entries are ones of `dtype`."""
    crow, col, values = x.csr()
    if values is None:
        values = torch.ones(col.shape, dtype=dtype, device=col.device)
    m, n = x.sizes()[:2]
    return Compressed(_numbers(values, x), crow, col, (m, n))


def _numbers(values: Tensor, x: object) -> Tensor:
    if values.ndim != 1:
        raise ClisonixError(
            f"The entries of a {type(x).__name__} are of shape {tuple(values.shape[1:])}; give a matrix of numbers."
        )
    return values
