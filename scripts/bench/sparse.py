"""Sparse products against torch's, torch-sparse's and SciPy's, each given its own best format beforehand.

    python scripts/bench/sparse.py                      every row, as a table
    python scripts/bench/sparse.py --json transform     some rows, one JSON line each

Contenders take turns in one process (`timing.py`); the claim is the median ratio of a round against the best of the
others. torch-sparse takes part where it is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import alternately, best_of, times_faster
from torch import Tensor
from torch.nn import functional as F

from clisonix.liam import BinaryAlgebra, BlockSparse, Matrix, SemiSparse, Sparse

Row = dict[str, Any]
Contenders = dict[str, Callable[[], Any]]
N = 4096
FORMS: dict[str, Callable[[Tensor], Matrix]] = {
    "1 % entries": lambda weight: Sparse.largest(weight, 0.01),
    "10 % entries": lambda weight: Sparse.largest(weight, 0.1),
    "10 % blocks of 16": lambda weight: BlockSparse.largest(weight, 0.1, 16),
    "25 % blocks of 32": lambda weight: BlockSparse.largest(weight, 0.25, 32),
    "2 of 4": SemiSparse.nearest,
}


def problem(m: int = 100_000, n: int = 20_000, k: int = 64, nonzeros: int = 2_000_000) -> tuple[Tensor, Tensor]:
    """Sparse data as a coalesced COO tensor `(m, n)`, and dense weights `(n, k)`; float32."""
    generator = torch.Generator().manual_seed(0)
    places = torch.stack([torch.randint(size, (nonzeros,), generator=generator) for size in (m, n)])
    values = torch.randn(nonzeros, generator=generator)
    data = torch.sparse_coo_tensor(places, values, (m, n), check_invariants=True).coalesce()
    return data, torch.randn(n, k, generator=generator)


def csr32(data: Tensor) -> Tensor:
    """`data` as CSR with int32 indices, which torch multiplies fastest."""
    csr = data.to_sparse_csr()
    crow, col = csr.crow_indices().int(), csr.col_indices().int()
    return torch.sparse_csr_tensor(crow, col, csr.values(), data.shape, check_invariants=True)


def peers(data: Tensor, weights: Tensor) -> Contenders:
    """What others offer for `data @ weights`, with their formats made."""
    import scipy.sparse

    csr = csr32(data)
    arrays = tuple(x.numpy() for x in (csr.values(), csr.col_indices(), csr.crow_indices()))
    scipy_csr, array = scipy.sparse.csr_matrix(arrays, tuple(data.shape)), weights.numpy()
    found: Contenders = {
        "torch.sparse.mm": lambda: torch.sparse.mm(csr, weights),
        "scipy CSR": lambda: scipy_csr @ array,
    }
    try:
        torch_sparse = importlib.import_module("torch_sparse")
    except ImportError:
        return found
    theirs = torch_sparse.SparseTensor.from_torch_sparse_coo_tensor(data)
    found["torch-sparse matmul"] = lambda: torch_sparse.matmul(theirs, weights)
    places, values = data.indices(), data.values()
    found["torch-sparse spmm"] = lambda: torch_sparse.spmm(places, values, *data.shape, weights)
    return found


def transform(rounds: int = 15) -> Row:
    """`transform_matrix`: 100 000 × 20 000 data with 2 M nonzeros times 64 dense weights, float32."""
    data, weights = problem()
    csr, algebra = csr32(data), BinaryAlgebra()
    others = peers(data, weights)
    contenders: Contenders = {"clisonix": lambda: algebra.transform_matrix(csr, weights), **others}
    with torch.no_grad():
        expected = torch.sparse.mm(csr.double(), weights.double())
        error = float((algebra.transform_matrix(csr, weights) - expected).norm() / expected.norm())
        spent = alternately(contenders, rounds)
    found = times_faster(spent, "clisonix", best_of(spent, list(others)))
    every = {name: times_faster(spent, "clisonix", name)["ratio"] for name in others}
    return {**found, "must": 1.0, "aim": 1.5, "ratios": every, "relative_error": error}


def gradients(rounds: int = 9) -> Row:
    """Forward and both gradients of the same product, against torch's and torch-sparse's."""
    data, weights = problem()
    csr = csr32(data)
    algebra, gradient = BinaryAlgebra(), torch.randn(data.shape[0], weights.shape[1])

    def step(product: Callable[[Tensor, Tensor], Tensor]) -> None:
        values, w = csr.values().detach().requires_grad_(), weights.detach().requires_grad_()
        product(values, w).backward(gradient)

    def with_csr(values: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(
            csr.crow_indices(), csr.col_indices(), values, csr.shape, check_invariants=False
        )

    contenders: Contenders = {
        "clisonix": lambda: step(lambda values, w: algebra.transform_matrix(with_csr(values), w)),
        "torch.sparse.mm": lambda: step(lambda values, w: torch.sparse.mm(with_csr(values), w)),
    }
    try:
        torch_sparse = importlib.import_module("torch_sparse")
        theirs = torch_sparse.SparseTensor.from_torch_sparse_coo_tensor(data)
        theirs.storage.csr2csc()
        theirs.storage.colptr()
        contenders["torch-sparse matmul"] = lambda: step(
            lambda values, w: torch_sparse.matmul(theirs.set_value(values, layout="csr"), w)
        )
    except ImportError:
        pass
    spent = alternately(contenders, rounds)
    others = [name for name in contenders if name != "clisonix"]
    every = {name: times_faster(spent, "clisonix", name)["ratio"] for name in others}
    return {**times_faster(spent, "clisonix", best_of(spent, others)), "ratios": every}


def forms() -> Iterator[Row]:
    """Layers of 4096 × 4096 in each form, against torch's dense product and its own sparse one; batch rows."""
    weight = torch.randn(N, N, generator=torch.Generator().manual_seed(0))
    for name, make in FORMS.items():
        matrix = make(weight)
        for batch in (1, 16, 256):
            x = torch.randn(batch, N)
            contenders: Contenders = {
                "clisonix": lambda x=x, a=matrix: a(x),
                "dense": lambda x=x: F.linear(x, weight),
            }
            if isinstance(matrix, Sparse | BlockSparse):
                theirs = (matrix.csr() if isinstance(matrix, Sparse) else matrix.bsr()).detach()
                contenders["torch.sparse"] = lambda x=x, a=theirs: (a @ x.mT).mT.contiguous()
            with torch.no_grad():
                spent = alternately(contenders, rounds=7)
            others = [other for other in contenders if other != "clisonix"]
            every = {other: times_faster(spent, "clisonix", other)["ratio"] for other in others}
            yield {
                "form": name,
                "batch": batch,
                **times_faster(spent, "clisonix", best_of(spent, others)),
                "ratios": every,
            }


def memory() -> Iterator[Row]:
    """Peak resident bytes of a product over those of what it must hold: the matrix, input and output."""
    from liam import resident_peak

    weight = torch.randn(N, N, generator=torch.Generator().manual_seed(0))
    data, weights = problem()
    csr, algebra = csr32(data), BinaryAlgebra()
    held = sum(x.nbytes for x in (csr.values(), csr.crow_indices(), csr.col_indices()))
    products: dict[str, tuple[int, Callable[[Tensor], Any], Tensor]] = {
        "transform_matrix": (held, lambda x: algebra.transform_matrix(csr, x), weights),
        "transform_matrix, transposed": (
            held,
            lambda x: algebra.transform_matrix(x, csr),
            torch.randn(64, data.shape[0]),
        ),
    }
    for name, make in FORMS.items():
        matrix = make(weight)
        for batch in (1, 64, 1024):
            products[f"{name}, batch {batch}"] = (matrix.nbytes, matrix, torch.randn(batch, N))
            products[f"{name}, transposed, batch {batch}"] = (matrix.nbytes, matrix.adjoint, torch.randn(batch, N))
    for name, (held, product, x) in products.items():
        with torch.inference_mode():
            product(x)  # threads that stay
            ctypes.CDLL(None).malloc_trim(0)  # what was freed is resident no more
            with resident_peak() as peak:
                out = product(x)
        needed = held + x.nbytes + out.nbytes
        yield {"product": name, "ratio": (held + x.nbytes + peak.bytes) / needed, "must_be_below": 1.25}
        del out


def rows() -> dict[str, Callable[[], Iterator[Row]]]:
    """The rows by name."""
    return {
        "transform": lambda: iter([transform()]),
        "gradients": lambda: iter([gradients()]),
        "forms": forms,
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(rows())}; all of them when left out")
    parser.add_argument("--json", action="store_true", help="one JSON line for each row")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    # torch says once that its CSR layout is in beta, torch-sparse that it uses what torch deprecates.
    warnings.simplefilter("ignore")
    for name in chosen.rows or rows():
        for row in rows()[name]():
            print(json.dumps({"row": name, **row}) if chosen.json else _line({"row": name, **row}), flush=True)


def _line(row: Row) -> str:
    def short(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {short(v)}" for k, v in value.items())
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return "  ".join(f"{key}={short(value)}" for key, value in row.items())


if __name__ == "__main__":
    main()
