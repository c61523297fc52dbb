"""The product of data and weights, whatever each of them is stored in."""

from __future__ import annotations

from functools import reduce
from typing import cast

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.compressed import SparseOperand
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Scaled, Sum, Transpose
from clisonix.liam.sparse import Sparse

# Where a form can only multiply dense rows, sparse data is opened this many entries at a time.
BLOCK_ENTRIES = 1 << 20

Operand = Tensor | Matrix | SparseOperand


def transform(data: object, weights: object, backend: str = "") -> Tensor | Matrix:
    """See `BinaryAlgebra.transform_matrix`."""
    a, b = _as_operand(data, "data"), _as_operand(weights, "weights")
    _check_match(a, b)
    # A sparse matrix of the algebra meeting a sparse tensor: both are lists of places and values.
    if isinstance(a, SparseOperand) and isinstance(b, Sparse):
        b = SparseOperand(b.coo())
    if isinstance(b, SparseOperand) and isinstance(a, Sparse):
        a = SparseOperand(a.coo())
    if isinstance(a, SparseOperand):
        if isinstance(b, SparseOperand):
            return _sparse_times_sparse(a, b)
        return a.rows(b.dtype).matmul(b, backend) if isinstance(b, Tensor) else _sparse_times_matrix(a, b, backend)
    if isinstance(b, SparseOperand):
        if isinstance(a, Tensor):
            return b.rows(a.dtype).rows_times_t(a, backend)
        return _matrix_times_sparse(a, b, backend)
    return a @ b


def _as_operand(value: object, name: str) -> Operand:
    if isinstance(value, Matrix):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return value
    operand = SparseOperand.of(value)
    if operand is None:
        raise ClisonixError(
            f"{name} is a {type(value).__name__}; give a torch tensor, dense or sparse, a torch_sparse "
            "SparseTensor or a clisonix.liam.Matrix."
        )
    return operand


def _check_match(a: Operand, b: Operand) -> None:
    reason = _mismatch(a, b)
    if reason is not None:
        raise ClisonixError(f"{_describe('data', a)} cannot be multiplied by {_describe('weights', b)}: {reason}.")


def _mismatch(a: Operand, b: Operand) -> str | None:
    batched = isinstance(a, Tensor) and a.ndim >= 1
    if len(b.shape) != 2 or not (batched or len(a.shape) == 2):
        return "give data of shape (n, d) and weights of shape (d, k)"
    if a.shape[-1] != b.shape[0]:
        return f"{a.shape[-1]} columns need as many rows, not {b.shape[0]}"
    if a.device != b.device:
        return "move both to one device"
    dtypes = {dtype for dtype in (a.dtype, b.dtype) if dtype is not None}
    # Under autocast, what another layer hands on is in half precision while weights and data are not.
    mixed = torch.float64 not in dtypes and torch.is_autocast_enabled(a.device.type)
    if not all(dtype.is_floating_point for dtype in dtypes) or (len(dtypes) > 1 and not mixed):
        return "convert both to one floating-point type"
    return None


def _describe(name: str, x: Operand) -> str:
    kind = str(x.layout).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
    if isinstance(x, SparseOperand):
        kind = x.kind
    return f"{name} ({kind} {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device})"


def _sparse_times_sparse(a: SparseOperand, b: SparseOperand) -> Tensor:
    dtype = torch.promote_types(a.dtype or b.dtype or torch.float32, b.dtype or a.dtype or torch.float32)
    # torch has no half-precision sparse products on a CPU: widen, and round once at the end.
    wide = torch.promote_types(dtype, torch.float32)
    product: Tensor = torch.sparse.mm(a.coo(wide), b.coo(wide)).to(dtype)
    return product.to_sparse_csr() if a.kind == "sparse_csr" else product


def _sparse_times_matrix(a: SparseOperand, b: Matrix, backend: str) -> Tensor:
    if isinstance(b, Sum):
        return reduce(torch.add, [_sparse_times_matrix(a, term, backend) for term in _matrices(b.terms)])
    if isinstance(b, Scaled):
        return _sparse_times_matrix(a, b.inner, backend) * b.scale
    if isinstance(b, Transpose):
        return _matrix_times_sparse(b.inner, a.T, backend).mT
    chain = _matrices(b.factors) if isinstance(b, Product | LowRank) else [b]
    if len(chain) > 1:
        return reduce(lambda x, factor: factor.adjoint(x), chain[1:], _sparse_times_matrix(a, chain[0], backend))
    if isinstance(b, Dense):
        return a.rows(b.dtype).matmul(b.weight, backend)
    return torch.cat([b.adjoint(block) for block in a.dense_blocks(BLOCK_ENTRIES, b.dtype)])


def _matrix_times_sparse(a: Matrix, b: SparseOperand, backend: str) -> Tensor:
    if isinstance(a, Sum):
        return reduce(torch.add, [_matrix_times_sparse(term, b, backend) for term in _matrices(a.terms)])
    if isinstance(a, Scaled):
        return _matrix_times_sparse(a.inner, b, backend) * a.scale
    if isinstance(a, Transpose):
        return _sparse_times_matrix(b.T, a.inner, backend).mT
    chain = _matrices(a.factors) if isinstance(a, Product | LowRank) else [a]
    if len(chain) > 1:
        return reduce(lambda x, factor: factor.matmul(x), chain[-2::-1], _matrix_times_sparse(chain[-1], b, backend))
    if isinstance(a, Dense):
        return b.rows(a.dtype).rows_times_t(a.weight, backend)
    return torch.cat([a(block) for block in b.T.dense_blocks(BLOCK_ENTRIES, a.dtype)]).mT


def _matrices(modules: object) -> list[Matrix]:
    return list(cast("list[Matrix]", modules))
