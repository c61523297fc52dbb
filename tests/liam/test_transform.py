"""`transform_matrix`: every pairing of forms gives the product of the dense entries."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest
import torch
from matrices import FORMS, binary, dense, diagonal, lowrank, randn, sparse
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam import BinaryAlgebra, Matrix, Scaled, transform

F64 = torch.float64
algebra = BinaryAlgebra()
# torch says once a process that its CSR layout is in beta.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")


def entries(m: int, n: int, seed: int = 20) -> Tensor:
    return randn(m, n, seed=seed) * (randn(m, n, seed=seed + 1) > 0.3)


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "coo": lambda x: x.to_sparse_coo(),
    "coo, not coalesced": lambda x: (
        torch.cat([x.to_sparse_coo() / 2, x.to_sparse_coo() / 2], 1).to_dense()[:, : x.shape[1]].to_sparse_coo() * 2
    ),
    "csr": lambda x: x.to_sparse_csr(),
}


def opened(x: Tensor | Matrix) -> Tensor:
    return x.dense() if isinstance(x, Matrix) else x.to_dense()


@pytest.mark.parametrize("left", TENSORS)
@pytest.mark.parametrize("right", TENSORS)
@pytest.mark.parametrize(("n", "d", "k"), [(5, 4, 3), (1, 7, 2), (3, 1, 1)])
def test_two_tensors(left: str, right: str, n: int, d: int, k: int) -> None:
    a, b = entries(n, d), entries(d, k, seed=30)
    result = algebra.transform_matrix(TENSORS[left](a), TENSORS[right](b))
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result.to_dense(), a @ b)
    both_sparse = "dense" not in (left, right)
    assert (result.layout != torch.strided) == both_sparse
    if both_sparse:
        assert result.layout == (torch.sparse_csr if left == "csr" else torch.sparse_coo)


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_and_a_matrix_on_either_side(tensor: str, form: str) -> None:
    a, b = entries(5, 4), FORMS[form](4, 3, F64)
    result = algebra.transform_matrix(TENSORS[tensor](a), b)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(opened(result), a @ b.dense(), check_stride=False)
    c, d = FORMS[form](5, 4, F64), entries(4, 3)
    result = algebra.transform_matrix(c, TENSORS[tensor](d))
    assert isinstance(result, Tensor)
    torch.testing.assert_close(opened(result), c.dense() @ d, check_stride=False)


def test_two_matrices_stay_lazy() -> None:
    a, b = lowrank(5, 4, F64), binary(4, 3, F64)
    result = algebra.transform_matrix(a, b)
    assert isinstance(result, Matrix)
    torch.testing.assert_close(result.dense(), a.dense() @ b.dense())


def test_sparse_data_and_a_sparse_matrix_stay_sparse() -> None:
    for a, b in (
        (entries(5, 4).to_sparse_coo(), sparse(4, 3, F64)),
        (sparse(5, 4, F64), entries(4, 3).to_sparse_coo()),
    ):
        result = algebra.transform_matrix(a, b)
        assert isinstance(result, Tensor)
        assert result.layout == torch.sparse_coo


def test_batches_of_dense_data() -> None:
    x = randn(2, 3, 4)
    for weights in (entries(4, 5), entries(4, 5).to_sparse_coo(), sparse(4, 5, F64)):
        result = algebra.transform_matrix(x, weights)
        torch.testing.assert_close(result, x @ opened(weights))
        torch.testing.assert_close(algebra.transform_matrix(x[0, 0], weights), x[0, 0] @ opened(weights))


@pytest.mark.parametrize("n", [0, 1, 10])
def test_sparse_data_is_opened_in_blocks_of_rows(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "BLOCK_ENTRIES", 12)
    a = entries(n, 4)
    weights = binary(4, 3, F64)
    result = algebra.transform_matrix(a.to_sparse_coo(), weights)
    torch.testing.assert_close(result, a @ weights.dense())
    if n:
        back = algebra.transform_matrix(binary(3, n, F64), a.to_sparse_coo())
        torch.testing.assert_close(back, binary(3, n, F64).dense() @ a, check_stride=False)


@pytest.mark.parametrize("weights", ["lowrank", "binary", "sum", "diagonal product", "transpose", "scaled"])
def test_gradients_reach_sparse_data_and_the_weights(weights: str) -> None:
    matrix = FORMS[weights](4, 3, F64)
    data = entries(5, 4).requires_grad_()
    ours = algebra.transform_matrix(data.to_sparse_coo(), matrix)
    assert isinstance(ours, Tensor)
    theirs = data @ matrix.dense()
    held = [data, *matrix.parameters()]
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), held), torch.autograd.grad(theirs.square().sum(), held), strict=True
    ):
        # A sparse operand has gradients only where it has entries.
        shown = one.to_dense() if one.layout != torch.strided else one
        mask = (
            data != 0 if other is not None and shown.shape == data.shape else torch.ones_like(other, dtype=torch.bool)
        )
        torch.testing.assert_close(shown * mask, other * mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    a, b = entries(5, 4).to(dtype), entries(4, 3).to(dtype)
    result = algebra.transform_matrix(a.to_sparse_coo(), b)
    assert isinstance(result, Tensor)
    torch.testing.assert_close(result, (a.double() @ b.double()).to(dtype))


def test_a_torch_sparse_tensor_is_known_by_its_module_alone() -> None:
    inner = entries(5, 4)
    stand_in = types.new_class("SparseTensor", exec_body=lambda ns: ns.update(__module__="torch_sparse.tensor"))
    stand_in.to_torch_sparse_coo_tensor = lambda self: inner.to_sparse_coo()  # type: ignore[attr-defined]
    had = "torch_sparse" in sys.modules
    result = algebra.transform_matrix(stand_in(), entries(4, 3))
    torch.testing.assert_close(result, inner @ entries(4, 3))
    assert ("torch_sparse" in sys.modules) == had


def test_a_real_torch_sparse_tensor() -> None:
    torch_sparse = pytest.importorskip("torch_sparse", reason="the extra [sparse] is not installed")
    a, b = entries(5, 4), entries(4, 3)
    left, right = torch_sparse.SparseTensor.from_dense(a), torch_sparse.SparseTensor.from_dense(b)
    torch.testing.assert_close(algebra.transform_matrix(left, b), a @ b)
    torch.testing.assert_close(algebra.transform_matrix(a, right), a @ b)
    torch.testing.assert_close(opened(algebra.transform_matrix(left, right)), a @ b)


def test_errors_name_both_sides() -> None:
    a, b = randn(5, 4), randn(4, 3)
    for expected, call in {
        r"data \(strided \(5, 4\) float64 on cpu\).*weights \(strided \(5, 4\) float64 on cpu\): 4 columns": lambda: (
            algebra.transform_matrix(a, a)
        ),
        r"data \(LowRank \(5, 4\).*weights \(Dense \(3, 4\)": lambda: algebra.transform_matrix(
            lowrank(5, 4, F64), dense(3, 4, F64)
        ),
        "float64.*float32.*one floating-point type": lambda: algebra.transform_matrix(a, b.float()),
        "int64.*one floating-point type": lambda: algebra.transform_matrix(a.long(), b.long()),
        "cpu.*meta.*one device": lambda: algebra.transform_matrix(a, b.to("meta")),
        r"weights of shape \(d, k\)": lambda: algebra.transform_matrix(a, b[0]),
        "data is a list": lambda: algebra.transform_matrix([[1.0]], b),  # type: ignore[arg-type]
        "weights is a NoneType": lambda: algebra.transform_matrix(a, None),  # type: ignore[arg-type]
        "sparse_csc with": lambda: algebra.transform_matrix(a.to_sparse_csc(), b),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            call()


def test_svd_compress_takes_one_of_three_targets() -> None:
    x = randn(40, 50)
    assert algebra.svd_compress(x).rank == 32
    assert algebra.svd_compress(x[:, :8]).rank == 8
    assert algebra.svd_compress(x, energy=1.0).rank == 40
    assert algebra.svd_compress(Scaled(diagonal(6, F64), 2.0), tol=0.5).rank < 6
    with pytest.raises(ClisonixError, match="energy and tol"):
        algebra.svd_compress(x, energy=0.5, tol=0.5)
