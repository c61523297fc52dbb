"""What the masked forms promise beyond the laws: which entries they keep, at what cost, from and to what."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import blocks, randn, sparse, two_of_four
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels.twofour import kept_columns
from clisonix.liam import BinaryAlgebra, BlockSparse, Diagonal, Matrix, SemiSparse, Sparse
from clisonix.liam.association import work

# torch says once a process that its CSR layout is in beta.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
F64 = torch.float64
algebra = BinaryAlgebra()
sizes, quick = st.integers(0, 13), settings(max_examples=50, deadline=None)
MASKED = {"sparse": sparse, "blocks": blocks, "two of four": two_of_four}
masked = pytest.mark.parametrize("form", MASKED)


def entries(m: int, n: int, seed: int = 5) -> Tensor:
    return randn(m, n, seed=seed) * (randn(m, n, seed=seed + 1) > 0.4)


@given(sizes, sizes, st.integers(0, 99))
@quick
def test_a_sparse_matrix_takes_the_entries_of_every_layout(m: int, n: int, seed: int) -> None:
    w = entries(m, n, seed)
    tensors = [w, w.to_sparse_coo(), w.to_sparse_csr(), w.to_sparse_csc(), w.T.contiguous().to_sparse_coo().T]
    if m and n:
        tensors += [w.to_sparse_bsr((1, n)), w.to_sparse_bsc((m, 1))]
    for tensor in tensors:
        a = Sparse.from_tensor(tensor)
        assert torch.equal(a.dense(), w)
        assert a.crow.dtype == a.col.dtype == torch.int32
    assert torch.equal(a.coo().to_dense(), w)
    assert torch.equal(a.csr().to_dense(), w)


def test_a_sparse_matrix_takes_the_entries_of_a_torch_sparse_tensor() -> None:
    torch_sparse = pytest.importorskip("torch_sparse", reason="the extra [sparse] is not installed")
    theirs = torch_sparse.SparseTensor.from_dense(entries(6, 5))
    assert torch.equal(Sparse.from_tensor(theirs).dense(), entries(6, 5))
    assert Sparse.from_tensor(theirs.set_value(None)).dense().tolist() == (entries(6, 5) != 0).float().tolist()


def test_gradients_reach_the_values_through_torch_tensors_on_the_same_memory() -> None:
    a, b, x = sparse(6, 9, F64), BlockSparse.largest(randn(6, 9), 0.5, (2, 3)), randn(9, 2)
    assert a.csr().values().data_ptr() == a.values.data_ptr()
    assert b.bsr().values().data_ptr() == b.values.data_ptr()
    for matrix, tensor in ((a, a.csr()), (a, a.coo()), (b, b.bsr())):
        ours, theirs = (y.square().sum() for y in (matrix @ x, algebra.transform_matrix(tensor, x)))
        torch.testing.assert_close(*(torch.autograd.grad(loss, matrix.values) for loss in (ours, theirs)))
    with pytest.raises(ClisonixError, match="has no BSR tensor"):
        BlockSparse.largest(randn(7, 9), 0.5, (2, 3)).bsr()


@given(sizes, sizes, st.integers(1, 5), st.integers(1, 5), st.floats(0, 1), st.integers(0, 99))
@quick
def test_block_sparsity_keeps_the_blocks_of_largest_norm(
    m: int, n: int, br: int, bc: int, density: float, seed: int
) -> None:
    w = randn(m, n, seed=seed)
    a = algebra.sparsify(w, density=density, pattern=(br, bc))
    assert isinstance(a, BlockSparse)
    rows, columns = range(0, m, br), range(0, n, bc)
    norms = {(i, j): float(w[i : i + br, j : j + bc].norm()) for i in rows for j in columns}
    assert a.values.shape == (round(density * len(norms)), br, bc)
    entries = a.dense().detach()
    kept, lost = [], []
    for (i, j), norm in norms.items():
        part = entries[i : i + br, j : j + bc]
        is_kept = torch.equal(part, w[i : i + br, j : j + bc])
        assert is_kept or not part.any()
        (kept if is_kept else lost).append(norm)
    assert not kept or not lost or min(kept) >= max(lost) - 1e-12


def test_blocks_come_from_bsr_tensors_and_from_whatever_is_not_zero() -> None:
    w = torch.zeros(6, 8)
    w[2:4, 4:8], w[5, 0] = 1.0, 2.0
    a, b = BlockSparse.from_tensor(w, (2, 4)), BlockSparse.from_tensor(w.to_sparse_bsr((2, 4)))
    for matrix in (a, b):
        assert matrix.values.shape == (2, 2, 4)
        assert torch.equal(matrix.dense(), w)
        assert matrix.crow.tolist() == [0, 0, 1, 2]
    assert a.block == (2, 4)
    assert work(a) == 16


def test_what_a_block_holds_beyond_the_edge_counts_for_nothing_and_does_not_learn() -> None:
    a = BlockSparse.largest(randn(5, 7), 1.0, 4)
    beyond = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    beyond[1, :, 1:], beyond[:, 1, :, 3:] = True, True
    x = randn(3, 7)
    before = a(x).detach().clone()
    with torch.no_grad():
        a.values[beyond.flatten(0, 1)] = torch.nan
    assert torch.equal(a(x), before)
    assert a.dense().isfinite().all()
    (grad,) = torch.autograd.grad(a(x).square().sum(), a.values)
    assert torch.equal(grad == 0, beyond.flatten(0, 1))


@given(sizes, st.integers(0, 21), st.integers(0, 99))
@quick
def test_two_of_four_keeps_the_two_largest_of_each_four(m: int, n: int, seed: int) -> None:
    w = randn(m, n, seed=seed)
    a = algebra.sparsify(w, pattern="2:4")
    assert isinstance(a, SemiSparse)
    kept = a.dense().detach()
    assert a.values.shape == (m, kept_columns(n))
    for start in range(0, n, 4):
        part, ours = w[:, start : start + 4], kept[:, start : start + 4]
        assert torch.equal(ours != 0, part.abs() >= part.abs().topk(min(2, part.shape[1])).values[:, -1:])
        assert torch.equal(ours[ours != 0], part[ours != 0])


def test_no_other_choice_of_two_in_four_comes_closer() -> None:
    w = randn(1, 7)
    ours = float((w - SemiSparse.nearest(w).dense()).norm().detach())
    for one, other in itertools.product(itertools.combinations(range(4), 2), itertools.combinations(range(4, 7), 2)):
        kept = torch.zeros(7, dtype=torch.bool)
        kept[[*one, *other]] = True
        assert ours <= float((w * ~kept).norm()) + 1e-12


def test_ties_and_zeros_still_keep_two_of_four() -> None:
    for w in (torch.zeros(2, 8), torch.ones(2, 7), torch.tensor([[0.0, 0.0, 0.0, 3.0, 0.0]])):
        a = SemiSparse.nearest(w)
        assert int((a.dense() != 0).sum()) == min(int((w != 0).sum()), w.shape[0] * kept_columns(w.shape[1]))


def test_masked_forms_cost_what_they_keep() -> None:
    w = torch.randn(64, 128)
    assert algebra.sparsify(w, density=0.25).nbytes == 64 * 32 * (4 + 4) + 65 * 4
    assert algebra.sparsify(w, density=0.25, pattern=16).nbytes == 8 * (16 * 16 * 4 + 4) + 5 * 4
    assert algebra.sparsify(w, pattern="2:4").nbytes == 64 * 64 * 4 + 64 * 16
    assert algebra.sparsify(w.half(), pattern="2:4").nbytes == 64 * 128 * 9 // 8


def expected_error(w: Tensor, a: Matrix, moments: Tensor) -> float:
    return float(((w - a.dense().detach()).square() * moments).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("pattern", "density"), [("any", 0.5), ((2, 2), 0.5), ("2:4", None)])
def test_moments_weigh_entries_by_what_their_inputs_carry(
    pattern: str | tuple[int, int], density: float | None, seed: int
) -> None:
    w, x = randn(4, 8, seed=seed), randn(50, 8, seed=seed + 1) * torch.logspace(-2, 2, 8, dtype=F64)
    second = x.T @ x / 50
    plain = algebra.sparsify(w, density=density, pattern=pattern)
    full = algebra.sparsify(w, density=density, pattern=pattern, moments=second)
    diagonal = algebra.sparsify(w, density=density, pattern=pattern, moments=second.diagonal())
    assert torch.equal(full.dense(), diagonal.dense())
    assert full.values.shape == plain.values.shape
    assert expected_error(w, full, second.diagonal()) <= expected_error(w, plain, second.diagonal())


def test_no_other_half_of_the_entries_has_a_smaller_expected_error() -> None:
    w, moments = randn(2, 3), torch.tensor([1.0, 4.0, 0.1], dtype=F64)
    ours = expected_error(w, algebra.sparsify(w, density=0.5, moments=moments), moments)
    for kept in itertools.combinations(range(6), 3):
        mask = torch.ones(6, dtype=F64)
        mask[list(kept)] = 0
        assert ours <= float((w.square() * moments * mask.view(2, 3)).sum()) + 1e-12


@masked
def test_only_kept_entries_learn_and_they_learn_as_in_a_dense_layer(form: str) -> None:
    a, x = MASKED[form](6, 9, F64), randn(4, 9)
    assert [name for name, _ in a.named_parameters()] == ["values"]
    w = a.dense().detach().requires_grad_()
    (expected,) = torch.autograd.grad((x @ w.T).square().sum(), w)
    a.zero_grad()
    a(x).square().sum().backward()
    assert a.values.grad is not None
    moved = torch.func.functional_call(Dense(a), {"matrix.values": a.values.grad}, ())
    torch.testing.assert_close(moved, expected * (moved != 0))
    assert int((moved != 0).sum()) == int((w != 0).sum())


class Dense(torch.nn.Module):
    """The entries of a matrix, for a functional call."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self) -> Tensor:
        return self.matrix.dense()


@masked
@pytest.mark.parametrize("damage", ["crow", "col", "places"])
def test_a_damaged_file_is_refused_before_it_is_multiplied(form: str, damage: str) -> None:
    a = MASKED[form](6, 9, F64)
    state = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    if damage not in state:
        return
    if damage == "places":
        state[damage][0, 0] = 0
    else:
        state[damage][1] = 1000
    with pytest.raises(ClisonixError, match="damaged data"):
        (a @ Diagonal(randn(9))).load_state_dict({f"factors.0.{k}": v for k, v in state.items()}, strict=False)


def test_a_place_beyond_the_last_column_is_refused() -> None:
    a = SemiSparse.nearest(torch.ones(1, 7))
    with pytest.raises(ClisonixError, match="damaged data"):
        SemiSparse(a.values, torch.tensor([[0b11_01_01_00]], dtype=torch.uint8), 7)


@masked
def test_a_backend_can_be_pinned_and_all_agree(form: str) -> None:
    a, x = MASKED[form](6, 9, F64), randn(4, 9)
    expected = x @ a.dense().T
    for backend in ("own", "torch", "torch_sparse"):
        a.backend = backend
        torch.testing.assert_close(a(x), expected)
        torch.testing.assert_close(a.adjoint(x[:, :6]), x[:, :6] @ a.dense())
    a.backend = "onw"
    with pytest.raises(ClisonixError, match="did you mean 'own'"):
        a(x)


def test_what_is_no_masked_form_is_refused_in_a_sentence() -> None:
    w, places = randn(3, 8), torch.zeros(3, 1, dtype=torch.uint8)
    for expected, build in {
        "needs a density": lambda: algebra.sparsify(w),
        "keeps half": lambda: algebra.sparsify(w, density=0.3, pattern="2:4"),
        "pattern='2:5' is unknown; did you mean '2:4'": lambda: algebra.sparsify(w, density=0.5, pattern="2:5"),
        "block=0 is no size": lambda: algebra.sparsify(w, density=0.5, pattern=0),
        "density=-1": lambda: algebra.sparsify(w, density=-1, pattern=2),
        r"moments have the shape \(3,\)": lambda: algebra.sparsify(w, density=0.5, moments=torch.ones(3)),
        "moments are negative": lambda: algebra.sparsify(w, density=0.5, moments=-torch.ones(8)),
        "entries of moments are NaN": lambda: algebra.sparsify(w, density=0.5, moments=torch.ones(8) / 0),
        "entries of weight are NaN": lambda: SemiSparse.nearest(w / 0),
        "2 dimensions": lambda: BlockSparse.largest(w[0], 0.5),
        "blocks without entries": lambda: BlockSparse(w.view(3, 8, 1)[:, :0], places, places, (3, 8)),
        "crow has 2 entries, but 3 rows": lambda: BlockSparse(
            w.view(3, 1, 8), torch.tensor([0, 3]), torch.tensor([0, 0, 0]), (3, 8)
        ),
        r"columns keep values \(3, 4\) at torch.uint8 \(3, 1\)": lambda: SemiSparse(w, places, 8),
        "places is torch.int64": lambda: SemiSparse(w[:, :4], places.long(), 8),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            build()
