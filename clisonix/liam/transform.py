"""The product of data and weights, whatever each of them is stored in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam.dense import Dense
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.nodes import Product, Sum
from clisonix.liam.sparse import Sparse

# Where a form can only multiply dense rows, sparse data is opened this many entries at a time.
BLOCK_ENTRIES = 1 << 22


def transform(data: object, weights: object) -> Tensor | Matrix:
    """See `BinaryAlgebra.transform_matrix`."""
    a, b = _as_operand(data, "data"), _as_operand(weights, "weights")
    _check_match(a, b)
    sparse_a, sparse_b = _is_sparse(a), _is_sparse(b)
    # A sparse matrix of the algebra meeting a sparse tensor: both are lists of places and values.
    if sparse_a and isinstance(b, Sparse):
        b, sparse_b = b.coo(), True
    if sparse_b and isinstance(a, Sparse):
        a, sparse_a = a.coo(), True
    if isinstance(a, Matrix):
        return _matrix_times_sparse(a, b) if isinstance(b, Tensor) and sparse_b else a @ b
    if isinstance(b, Matrix):
        return _sparse_times_matrix(a, b) if sparse_a else a @ b
    if sparse_a and sparse_b:
        product = _sparse_mm(_coo(a), _coo(b))
        return product.to_sparse_csr() if a.layout == torch.sparse_csr else product
    if sparse_a:
        return _sparse_mm(a, b)
    return _dense_times_sparse(a, b) if sparse_b else a @ b


def _as_operand(value: object, name: str) -> Tensor | Matrix:
    # By name: importing torch_sparse loads compiled code, and whoever holds such a tensor has done so already.
    if type(value).__module__.split(".")[0] == "torch_sparse":
        value = value.to_torch_sparse_coo_tensor()  # type: ignore[attr-defined]
    if not isinstance(value, Tensor | Matrix):
        raise ClisonixError(
            f"{name} is a {type(value).__name__}; give a torch tensor, dense or sparse, a torch_sparse "
            "SparseTensor or a clisonix.liam.Matrix."
        )
    return value


def _check_match(a: Tensor | Matrix, b: Tensor | Matrix) -> None:
    def describe(name: str, x: Tensor | Matrix) -> str:
        kind = type(x).__name__ if isinstance(x, Matrix) else str(x.layout).removeprefix("torch.")
        return f"{name} ({kind} {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device})"

    both = f"{describe('data', a)} cannot be multiplied by {describe('weights', b)}"
    batched = isinstance(a, Tensor) and a.layout == torch.strided and len(a.shape) >= 1
    for x in (a, b):
        if isinstance(x, Tensor) and x.layout not in (torch.strided, torch.sparse_coo, torch.sparse_csr):
            raise ClisonixError(f"{both}: convert the layout {x.layout} with .to_sparse_csr() first.")
    if len(b.shape) != 2 or not (batched or len(a.shape) == 2):
        raise ClisonixError(f"{both}: give data of shape (n, d) and weights of shape (d, k).")
    if a.shape[-1] != b.shape[0]:
        raise ClisonixError(f"{both}: {a.shape[-1]} columns need as many rows, not {b.shape[0]}.")
    if a.dtype != b.dtype or not a.dtype.is_floating_point:
        raise ClisonixError(f"{both}: convert both to one floating-point type.")
    if a.device != b.device:
        raise ClisonixError(f"{both}: move both to one device.")


def _is_sparse(x: Tensor | Matrix) -> bool:
    return isinstance(x, Tensor) and x.layout != torch.strided


def _coo(x: Tensor) -> Tensor:
    coo: Tensor = x.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    return coo


def _sparse_mm(a: Tensor, b: Tensor) -> Tensor:
    # torch has no half-precision sparse products on a CPU: widen, and round once at the end.
    wide = torch.promote_types(a.dtype, torch.float32)
    product: Tensor = torch.sparse.mm(a.to(wide), b.to(wide))
    return product.to(a.dtype)


def _dense_times_sparse(a: Tensor, b: Tensor) -> Tensor:
    rows = a.reshape(-1, a.shape[-1])
    return _sparse_mm(_coo(b).mT, rows.mT).mT.reshape(*a.shape[:-1], b.shape[1])


def _sparse_times_matrix(a: Tensor, b: Matrix) -> Tensor:
    if isinstance(b, LowRank):
        return _sparse_mm(a, b.left) @ b.right
    if isinstance(b, Dense):
        return _sparse_mm(a, b.weight)
    if isinstance(b, Sum):
        return reduce(torch.add, [_sparse_times_matrix(a, term) for term in b.terms])  # type: ignore[arg-type]
    if isinstance(b, Product):
        first, *rest = b.factors
        return reduce(lambda x, factor: factor.adjoint(x), rest, _sparse_times_matrix(a, first))  # type: ignore
    return torch.cat([b.adjoint(block) for block in _row_blocks(_coo(a))])


def _matrix_times_sparse(a: Matrix, b: Tensor) -> Tensor:
    if isinstance(a, LowRank):
        return a.left @ _dense_times_sparse(a.right, b)
    if isinstance(a, Dense):
        return _dense_times_sparse(a.weight, b)
    return torch.cat([a(block) for block in _row_blocks(_coo(b).mT.coalesce())]).mT


def _row_blocks(coo: Tensor) -> Iterator[Tensor]:
    """Dense blocks `(rows, d)` that together are `coo (n, d)`; at least one, so an empty one has a shape."""
    n, d = coo.shape
    step = max(1, BLOCK_ENTRIES // max(d, 1))
    rows, columns = coo.indices()
    for start in range(0, max(n, 1), step):
        bounds = torch.tensor([start, start + step], device=coo.device)
        first, last = torch.searchsorted(rows, bounds).tolist()
        part = slice(first, last)
        zeros = coo.values().new_zeros(min(step, n - start), d)
        yield zeros.index_put((rows[part] - start, columns[part]), coo.values()[part])
