"""What single forms promise beyond the laws."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import FORMS, binary, lowrank, randn, sparse

from clisonix.errors import ClisonixError
from clisonix.liam import Binary, BinaryAlgebra, Dense, Diagonal, Integer, LowRank, Product, Sparse, Sum, Ternary


@given(st.integers(0, 9), st.integers(0, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_binarize_finds_the_signs_and_the_least_squares_scales(m: int, n: int, seed: int) -> None:
    w = randn(m, n, seed=seed)
    packed = BinaryAlgebra().binarize(w)
    signs = torch.where(w >= 0, 1.0, -1.0).double()
    torch.testing.assert_close(packed.dense().detach(), signs * packed.scales.detach()[:, None])
    best = (w * signs).sum(1) / max(n, 1)
    torch.testing.assert_close(packed.scales.detach(), best)


def test_no_other_signs_or_scales_come_closer_to_a_small_matrix() -> None:
    w = randn(1, 5)
    ours = float((w - BinaryAlgebra().binarize(w).dense()).norm().detach())
    for choice in itertools.product((-1.0, 1.0), repeat=5):
        signs = torch.tensor(choice, dtype=torch.float64)
        scale = (w[0] @ signs) / 5
        assert ours <= float((w[0] - scale * signs).norm()) + 1e-12


def test_a_binary_matrix_costs_one_bit_a_weight_and_its_scales() -> None:
    assert BinaryAlgebra().binarize(torch.randn(64, 256)).nbytes == 64 * 256 // 8 + 64 * 4


@pytest.mark.parametrize("form", ["binary", "integer of 3 bits", "ternary"])
def test_unpacking_in_blocks_changes_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, x, y = FORMS[form](17, 13, torch.float64), randn(4, 13), randn(4, 17)

    def results() -> tuple[torch.Tensor, ...]:
        outputs = a(x), y @ a
        return *outputs, *torch.autograd.grad(sum(o.square().sum() for o in outputs), list(a.parameters()))

    whole = results()
    monkeypatch.setattr("clisonix.kernels.planes_reference.BLOCK_ENTRIES", 40)
    torch.testing.assert_close(results(), whole)


def test_signs_stay_fixed_while_scales_learn() -> None:
    a = binary(4, 5, torch.float64)
    assert [name for name, _ in a.named_parameters()] == ["scales"]


@given(st.integers(0, 6), st.integers(0, 20), st.integers(2, 8), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_quantize_errs_by_less_than_plain_rounding(m: int, n: int, bits: int, group: int, seed: int) -> None:
    w = randn(m, n, seed=seed)
    a = BinaryAlgebra().quantize(w, bits=bits, group=group)
    assert (a.bits, a.shape) == (bits, (m, n))
    for start in range(0, n, group):
        part, ours = w[:, start : start + group], a.dense().detach()[:, start : start + group]
        step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        plain = step * (part / step).round()
        assert ((ours - part).norm(dim=1) <= (plain - part).norm(dim=1) * (1 + 1e-9) + 1e-12).all()


def test_a_matrix_already_on_the_levels_is_kept_exactly() -> None:
    levels = torch.tensor([[-4.0, -1.0, 0.0, 3.0], [4.0, 2.0, -3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    a = BinaryAlgebra().quantize(0.5 * levels, bits=3, group=4)
    torch.testing.assert_close(a.dense().detach(), 0.5 * levels)


def test_an_integer_matrix_costs_its_bits_and_its_scales() -> None:
    for bits in range(2, 9):
        a = BinaryAlgebra().quantize(torch.randn(16, 128), bits=bits, group=32)
        assert a.nbytes == 16 * 128 * bits // 8 + 16 * 4 * 4
    assert BinaryAlgebra().ternarize(torch.randn(16, 128)).nbytes == 16 * 128 * 2 // 8 + 16 * 4


@pytest.mark.parametrize("seed", range(5))
def test_no_other_ternary_row_comes_closer(seed: int) -> None:
    w = randn(1, 6, seed=seed)
    ours = float((w - BinaryAlgebra().ternarize(w).dense()).norm().detach())
    for choice in itertools.product((-1.0, 0.0, 1.0), repeat=6):
        levels = torch.tensor(choice, dtype=torch.float64)
        scale = (w[0] @ levels) / max(float(levels @ levels), 1.0)
        assert ours <= float((w[0] - scale * levels).norm()) + 1e-12


def test_zeros_and_ties_are_ternarized() -> None:
    w = torch.tensor([[0.0, 0.0, 0.0], [2.0, -2.0, 2.0], [0.0, 1.0, 0.0]])
    assert BinaryAlgebra().ternarize(w).dense().tolist() == w.tolist()


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_sparsify_keeps_the_largest_entries(m: int, n: int, density: float) -> None:
    w = randn(m, n)
    a = BinaryAlgebra().sparsify(w, density=density)
    assert a.values.numel() == round(density * m * n)
    kept = a.dense().detach() != 0
    assert torch.equal(a.dense()[kept], w[kept])
    if kept.any() and not kept.all():
        assert w[kept].abs().min() >= w[~kept].abs().max()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_sparse_holds_the_entries_of_dense_and_coo_tensors(m: int, n: int, seed: int) -> None:
    w = randn(m, n, seed=seed) * (randn(m, n, seed=seed + 1) > 0)
    for tensor in (w, w.to_sparse_coo(), w.T.contiguous().to_sparse_coo().T):
        a = Sparse.from_tensor(tensor)
        assert torch.equal(a.dense(), w)
        assert a.values.numel() == int((w != 0).sum())
        assert torch.equal(a.coo().to_dense(), w)


def test_repeated_places_of_a_coo_tensor_are_added() -> None:
    places = torch.tensor([[0, 0, 1], [2, 2, 0]])
    coo = torch.sparse_coo_tensor(places, torch.ones(3), (2, 3), check_invariants=True)
    assert Sparse.from_tensor(coo).dense().tolist() == [[0, 0, 2], [1, 0, 0]]


def test_sparse_products_can_be_differentiated_twice() -> None:
    a, x = sparse(3, 4, torch.float64), randn(2, 4).requires_grad_()

    def forward(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(a, {"values": values}, (x,))

    values = a.values.detach().requires_grad_()
    assert torch.autograd.gradgradcheck(forward, (x, values))


@pytest.mark.parametrize("damage", ["crow", "col"])
def test_a_damaged_file_is_refused_before_it_is_multiplied(damage: str) -> None:
    a = sparse(6, 9, torch.float64)
    state = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    state[damage][1] = 1000
    with pytest.raises(ClisonixError, match="damaged data"):
        (a @ Diagonal(randn(9))).load_state_dict({f"factors.0.{k}": v for k, v in state.items()}, strict=False)


def test_factors_that_do_not_fit_are_refused_in_a_sentence() -> None:
    f = randn(3, 2)
    for expected, build in {
        "left is": lambda: LowRank(f, f),
        "left is a list": lambda: LowRank([[1.0]], f),  # type: ignore[arg-type]
        "one dtype": lambda: LowRank(f, f.T.float()),
        "2 dimensions": lambda: Dense(f[0]),
        "1 dimension[.]": lambda: Diagonal(f),
        "floating-point": lambda: Dense(torch.ones(2, 2, dtype=torch.int64)),
        "no shape": lambda: Sum(),
        "a product of no|A product of no": lambda: Product(),
        "torch.uint8": lambda: Binary(f > 0, f[:, 0], 2),
        "NaN": lambda: Binary.nearest(f / 0 * 0),
        "of weight are NaN": lambda: Ternary.nearest(f / 0 * 0),
        "is no format": lambda: Integer.rounded(f, bits=9),
        r"bits, 3, 1\) beside": lambda: Integer(f > 0, f, 2, 1),
        "groups of 5 need": lambda: Integer(torch.zeros(2, 3, 1, dtype=torch.uint8), f, 2, 5),
        "three levels take 2": lambda: Ternary(torch.zeros(3, 3, 1, dtype=torch.uint8), f[:, :1], 2),
        "density=2": lambda: Sparse.largest(f, 2),
        "cannot become": lambda: Sparse.from_tensor(f[0]),
        "give int32 or int64": lambda: Sparse(f[0], f[0], f[0], 3),
        "damaged": lambda: Sparse(f[0], torch.tensor([0, 2]), torch.tensor([0, 3]), 3),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            build()
    with pytest.raises(ClisonixError, match="one shape"):
        LowRank.concatenate([lowrank(3, 2, torch.float64), lowrank(2, 3, torch.float64)])


def test_a_parameter_given_to_a_form_stays_the_same_parameter() -> None:
    weight = torch.nn.Parameter(randn(3, 2))
    assert Dense(weight).weight is weight


def test_views_given_to_a_form_are_stored_so_that_safetensors_takes_them() -> None:
    from safetensors.torch import save

    base = randn(6, 6)
    a = LowRank(base[:, :2], base[:2].expand(2, 6))
    assert len(save(a.state_dict())) > a.nbytes
    assert len(save(Dense(base.T).state_dict())) > 6 * 6 * 8


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
def test_compiles_with_the_default_backend() -> None:
    torch._dynamo.reset()
    a, x = lowrank(8, 8, torch.float32), randn(4, 8, dtype=torch.float32)
    torch.testing.assert_close(torch.compile(a, fullgraph=True)(x), a(x))
