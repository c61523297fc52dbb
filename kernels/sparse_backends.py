"""The ways to compute a sparse product, and which is taken.

A product that is named a backend runs there. Else small products, and all under deterministic algorithms, take the
first way there is: the own kernel on a CPU with a compiler, torch's otherwise. So do vectors that are rows: the other
ways have to copy these. For large products with vectors that are columns `clisonix.kernels.tuning` measures once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from clisonix.errors import ClisonixError, nearest
from clisonix.kernels import sparse_cpu, sparse_torch, twofour
from clisonix.kernels.sparse_cpu import MULTIPLY, MULTIPLY_T, Places
from clisonix.kernels.tuning import choose

BACKENDS = ("own", "torch", "torch_sparse")
# Multiplications below which nothing is measured: about a millisecond.
SMALL = 1 << 22

Ways = dict[str, Callable[[], Tensor]]


def run_multiply(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    """`(k, n)` to `(k, m)`, or turned `(n, k)` to `(m, k)`; the rest as in `clisonix.kernels.sparse`."""
    places = _checked(values.shape, crow, col, m, n, fits=x.shape[0 if turned else 1] == n)
    if 0 in (x.numel(), values.numel()):
        return x.new_zeros((m, x.shape[1]) if turned else (x.shape[0], m))
    own = sparse_cpu.is_possible(x, places)
    if own and _is_settled(backend, values.numel() * x.numel() // n, turned):
        return sparse_cpu.multiply(MULTIPLY, x, values, places, turned)
    ways: Ways = {}
    if own:
        ways["own"] = partial(sparse_cpu.multiply, MULTIPLY, x, values, places, turned)
    if values.ndim == 2:
        ways["torch"] = partial(twofour.multiply, x, values, crow, n, turned)
    else:
        ways["torch"] = partial(sparse_torch.multiply, x, values, crow, col, m, n, turned)
    if turned and values.ndim == 1 and _torch_sparse_takes(x, values, crow):
        ways["torch_sparse"] = partial(_torch_sparse_multiply, x, values, crow, col)
    return take("multiply", ways, backend, x, values.shape, (m, n))


def run_multiply_t(
    x: Tensor, values: Tensor, crow: Tensor, col: Tensor, m: int, n: int, turned: bool, backend: str
) -> Tensor:
    """`(k, m)` to `(k, n)`, or turned `(m, k)` to `(n, k)`."""
    places = _checked(values.shape, crow, col, m, n, fits=x.shape[0 if turned else 1] == m)
    if 0 in (x.numel(), values.numel()):
        return x.new_zeros((n, x.shape[1]) if turned else (x.shape[0], n))
    own = sparse_cpu.is_possible(x, places)
    if own and _is_settled(backend, values.numel() * x.numel() // m, turned):
        return sparse_cpu.multiply(MULTIPLY_T, x, values, places, turned)
    ways: Ways = {}
    if own:
        ways["own"] = partial(sparse_cpu.multiply, MULTIPLY_T, x, values, places, turned)
    if values.ndim == 2:
        ways["torch"] = partial(twofour.multiply_t, x, values, crow, n, turned)
    else:
        ways["torch"] = partial(sparse_torch.multiply_t, x, values, crow, col, m, n, turned)
    return take("multiply_t", ways, backend, x, values.shape, (m, n))


def run_sample(
    left: Tensor, right: Tensor, crow: Tensor, col: Tensor, shape: Sequence[int], turned: bool, backend: str
) -> Tensor:
    """`(k, m), (k, n)`, or turned `(m, k), (n, k)`, to the values at the places, in float32 or wider."""
    entries = 0 if turned else 1
    m, n = left.shape[entries], right.shape[entries]
    places = _checked(shape, crow, col, m, n, fits=left.shape[1 - entries] == right.shape[1 - entries])
    if 0 in (left.numel(), right.numel(), math.prod(shape)):
        return left.new_zeros(shape, dtype=torch.promote_types(left.dtype, torch.float32))
    own = len(shape) < 3 and sparse_cpu.is_possible(left, places)
    if own and _is_settled(backend, math.prod(shape) * left.shape[1 - entries], turned):
        return sparse_cpu.sample(left, right, places, shape, turned)
    ways: Ways = {}
    if own:
        ways["own"] = partial(sparse_cpu.sample, left, right, places, shape, turned)
    if len(shape) == 2:
        ways["torch"] = partial(twofour.sample, left, right, crow, turned)
    else:
        ways["torch"] = partial(sparse_torch.sample, left, right, crow, col, list(shape), turned)
    return take("sample", ways, backend, left, shape, (m, n))


def _is_settled(backend: str, multiplications: int, turned: bool) -> bool:
    """Whether the own kernel, where it is possible, is taken without looking at the other ways.

    Of vectors that are rows the others make copies, even if only to be measured, so that a first product would take
    twice the memory of any later one.
    """
    return backend == "own" or (not backend and (not turned or multiplications < SMALL))


def _checked(shape: Sequence[int], crow: Tensor, col: Tensor, m: int, n: int, fits: bool) -> Places:
    """The places, when all sizes go together: the kernels would read beside a tensor that is too small."""
    if len(shape) == 2:
        kept = twofour.kept_columns(n)
        fits &= tuple(shape) == (m, kept) and crow.dtype == torch.uint8 and crow.shape == (m, -(-kept // 4))
    else:
        rows = -(-m // (shape[1] if len(shape) == 3 else 1))
        fits &= crow.shape == (rows + 1,) and col.shape == tuple(shape[:1])
        fits &= crow.dtype == col.dtype and crow.dtype in (torch.int32, torch.int64)
    if not fits:
        raise ClisonixError(
            f"Values of shape {tuple(shape)} at places {tuple(crow.shape)} and {tuple(col.shape)} are no matrix of "
            f"shape {(m, n)} that fits the other operands; give sizes that go together."
        )
    return Places("twofour" if len(shape) == 2 else "sparse", crow.contiguous(), col.contiguous(), m, n)


def take(
    operation: str,
    ways: Ways,
    backend: str,
    x: Tensor,
    stored: Sequence[int],
    shape: tuple[int, int],
) -> Tensor:
    """The result of one of `ways`: of the one that `backend` names, if it is there and any is named."""
    if backend:
        if backend not in BACKENDS:
            raise ClisonixError(f"There is no backend {backend!r} for sparse products{nearest(backend, BACKENDS)}.")
        # A backend may lack some operations of a product that it can run itself: its gradients, or its transpose.
        return ways.get(backend, ways["torch"])()
    # With several ways the vectors are columns: for rows the own kernel was taken, or there is only torch's.
    k = x.shape[1]
    if len(ways) == 1 or math.prod(stored) * k < SMALL:
        return next(iter(ways.values()))()
    sizes = "×".join(str(size.bit_length()) for size in (*shape, k, stored[0]))
    kind = ("entries", "two of four", f"{stored[1:]} blocks")[len(stored) - 1]
    return ways[choose(f"{operation} {kind} {x.dtype} {sizes} across", ways, x.device)]()


def _torch_sparse_takes(x: Tensor, values: Tensor, crow: Tensor) -> bool:
    """Whether its product needs no copy: its indices are int64, its rows contiguous, its types all one."""
    fits = crow.dtype == torch.int64 and x.is_contiguous() and x.dtype == values.dtype
    return fits and x.dtype in (torch.float32, torch.float64) and _has_torch_sparse()


@cache
def _has_torch_sparse() -> bool:
    try:
        # Found but built for another torch, it fails in one of these ways.
        import torch_sparse  # noqa: F401 - registers the operator
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def _torch_sparse_multiply(x: Tensor, values: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    product: Tensor = torch.ops.torch_sparse.spmm_sum(None, crow, col, values, None, None, x)
    return product
