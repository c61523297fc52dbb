"""`transform_matrix`: every pairing of forms gives the product of the dense entries."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from matrices import FORMS, binary, dense, diagonal, lowrank, randn, sparse
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam import BinaryAlgebra, Matrix, Scaled, transform
from clisonix.liam.compressed import compressed

F64 = torch.float64
algebra = BinaryAlgebra()
# torch says once a process that its CSR layout is in beta.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")


def entries(m: int, n: int, seed: int = 20) -> Tensor:
    return randn(m, n, seed=seed) * (randn(m, n, seed=seed + 1) > 0.3)


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "coo": lambda x: x.to_sparse_coo(),
    "coo, not coalesced": lambda x: repeated(x),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
    "bsr": lambda x: x.to_sparse_bsr(divisors(x)),
    "bsc": lambda x: x.to_sparse_bsc(divisors(x)),
}


def repeated(x: Tensor) -> Tensor:
    """Every entry as two halves."""
    half = (x / 2).to_sparse_coo()
    places, values = torch.cat([half.indices()] * 2, 1), torch.cat([half.values()] * 2)
    return torch.sparse_coo_tensor(places, values, x.shape, check_invariants=True)


def divisors(x: Tensor) -> tuple[int, int]:
    """A block size that divides `x`, not square where it can be helped."""
    m, n = x.shape
    return (2 if m % 2 == 0 else 1), (3 if n % 3 == 0 else n)


def opened(x: Tensor | Matrix) -> Tensor:
    return x.dense() if isinstance(x, Matrix) else x.to_dense()


@pytest.mark.parametrize("left", TENSORS)
@pytest.mark.parametrize("right", TENSORS)
@pytest.mark.parametrize(("n", "d", "k"), [(6, 4, 3), (1, 7, 2), (3, 1, 1)])
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


@pytest.mark.parametrize("layout", ["coo", "coo, not coalesced", "csr", "csc", "bsr", "bsc"])
@pytest.mark.parametrize("other", ["dense", "coo", "lowrank", "binary"])
def test_gradients_reach_the_values_of_every_layout_on_either_side(layout: str, other: str) -> None:
    def partner(m: int, n: int) -> Tensor | Matrix:
        return FORMS[other](m, n, F64) if other in FORMS and other != "dense" else TENSORS[other](randn(m, n))

    for m, n, multiply in (
        (6, 3, lambda s: algebra.transform_matrix(s, partner(3, 5))),
        (6, 3, lambda s: algebra.transform_matrix(partner(5, 6), s)),
    ):
        data = entries(m, n).requires_grad_()
        ours, exact = multiply(TENSORS[layout](data)), multiply(data)
        assert isinstance(ours, Tensor)
        (grad,) = torch.autograd.grad(ours.to_dense().square().sum(), data)
        (expected,) = torch.autograd.grad(exact.to_dense().square().sum(), data)
        mask = data != 0
        torch.testing.assert_close(grad.to_dense() * mask, expected.to_dense() * mask)


def test_a_sparse_leaf_gets_a_sparse_gradient() -> None:
    for layout in ("coo", "csr"):
        leaf = TENSORS[layout](entries(6, 4)).requires_grad_()
        weights = randn(4, 3).requires_grad_()
        result = algebra.transform_matrix(leaf, weights)
        assert isinstance(result, Tensor)
        result.sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.layout == leaf.layout
        mask = entries(6, 4) != 0
        torch.testing.assert_close(leaf.grad.to_dense(), torch.ones(6, 3, dtype=F64) @ weights.detach().T * mask)
        torch.testing.assert_close(weights.grad, entries(6, 4).T @ torch.ones(6, 3, dtype=F64))


@pytest.mark.parametrize("layout", [name for name in TENSORS if name != "dense"])
def test_under_autocast_half_meets_single_precision(layout: str) -> None:
    data, weights = entries(6, 3).float(), randn(3, 5).float()
    sparse_data = TENSORS[layout](data)
    expected = data @ weights
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for other in (weights.bfloat16(), weights, TENSORS["coo"](weights)):
            result = algebra.transform_matrix(sparse_data, other)
            assert isinstance(result, Tensor)
            torch.testing.assert_close(result.to_dense().float(), expected, rtol=0.02, atol=0.02)
        result = algebra.transform_matrix(weights.T.bfloat16(), TENSORS[layout](data.T.contiguous()))
        assert isinstance(result, Tensor)
        torch.testing.assert_close(result.float(), expected.T, rtol=0.02, atol=0.02)
    with pytest.raises(ClisonixError, match="one floating-point type"):
        algebra.transform_matrix(sparse_data, weights.bfloat16())


@pytest.mark.parametrize("layout", ["csr", "csc", "bsr", "bsc"])
def test_no_index_and_no_value_is_copied(layout: str) -> None:
    data = TENSORS[layout](entries(6, 3))
    rows = compressed(data)
    by_rows = layout in ("csr", "bsr")
    crow, col = (data.crow_indices(), data.col_indices()) if by_rows else (data.ccol_indices(), data.row_indices())
    for ours, theirs in ((rows.crow, crow), (rows.col, col), (rows.values, data.values())):
        assert ours.data_ptr() == theirs.data_ptr()


@pytest.mark.parametrize("backend", ["own", "torch", "torch_sparse"])
def test_every_backend_gives_the_product(backend: str) -> None:
    a, b = entries(6, 4), randn(4, 3)
    for layout in TENSORS:
        result = algebra.transform_matrix(TENSORS[layout](a), b, backend=backend)
        assert isinstance(result, Tensor)
        torch.testing.assert_close(result, a @ b)


class StandIn:
    """What is asked of a `torch_sparse.SparseTensor`, for machines that do not have it."""

    def __init__(self, dense: Tensor, has_value: bool = True) -> None:
        self.dense, self._has_value = dense, has_value

    def has_value(self) -> bool:
        return self._has_value

    def sizes(self) -> list[int]:
        return list(self.dense.shape)

    def dtype(self) -> torch.dtype:
        return self.dense.dtype

    def device(self) -> torch.device:
        return self.dense.device

    def csr(self) -> tuple[Tensor, Tensor, Tensor | None]:
        csr = self.dense.to_sparse_csr()
        return csr.crow_indices(), csr.col_indices(), csr.values() if self._has_value else None


StandIn.__module__ = "torch_sparse.tensor"


def test_a_torch_sparse_tensor_is_known_by_its_module_alone() -> None:
    inner = entries(5, 4)
    had = "torch_sparse" in sys.modules
    result = algebra.transform_matrix(StandIn(inner), randn(4, 3))  # type: ignore[arg-type]
    torch.testing.assert_close(result, inner @ randn(4, 3))
    result = algebra.transform_matrix(randn(3, 5), StandIn(inner, has_value=False))  # type: ignore[arg-type]
    torch.testing.assert_close(result, randn(3, 5) @ (inner != 0).double())
    assert ("torch_sparse" in sys.modules) == had
    with pytest.raises(ClisonixError, match=r"data \(SparseTensor \(5, 4\) float64 on cpu\).*4 columns need"):
        algebra.transform_matrix(StandIn(inner), randn(5, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["data", "weights"])
@pytest.mark.parametrize("with_values", [True, False])
def test_a_real_torch_sparse_tensor_with_anything(side: str, with_values: bool) -> None:
    torch_sparse = pytest.importorskip("torch_sparse", reason="the extra [sparse] is not installed")
    values = entries(6, 3)
    theirs = torch_sparse.SparseTensor.from_dense(values)
    if not with_values:
        theirs, values = theirs.set_value(None), (values != 0).double()
    for name in (*TENSORS, *FORMS):
        other = FORMS[name](3, 6, F64) if name in FORMS and name != "dense" else TENSORS[name](entries(3, 6, seed=40))
        if side == "data":
            result, expected = algebra.transform_matrix(theirs, other), values @ opened(other)
        else:
            result, expected = algebra.transform_matrix(other, theirs), opened(other) @ values
        torch.testing.assert_close(opened(result), expected, check_stride=False)
    if with_values:
        twice = algebra.transform_matrix(theirs, torch_sparse.SparseTensor.from_dense(randn(3, 6)))
        torch.testing.assert_close(opened(twice), values @ randn(3, 6))


def test_gradients_reach_the_values_of_a_real_torch_sparse_tensor_as_its_own_product_does() -> None:
    torch_sparse = pytest.importorskip("torch_sparse", reason="the extra [sparse] is not installed")
    theirs, weights = torch_sparse.SparseTensor.from_dense(entries(6, 3)), randn(3, 5).requires_grad_()
    values = theirs.storage.value().requires_grad_()
    tensor = theirs.set_value(values, layout="coo")
    ours, reference = algebra.transform_matrix(tensor, weights), torch_sparse.matmul(tensor, weights)
    torch.testing.assert_close(ours, reference)
    for product in (ours, reference):
        assert isinstance(product, Tensor)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), (values, weights)),  # type: ignore[union-attr]
        torch.autograd.grad(reference.square().sum(), (values, weights)),
    )


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
        r"data \(sparse_csc \(5, 4\) float64 on cpu\).*4 columns": lambda: algebra.transform_matrix(
            a.to_sparse_csc(), a
        ),
        "did you mean 'torch'": lambda: algebra.transform_matrix(a.to_sparse_csr(), b, backend="torhc"),
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
