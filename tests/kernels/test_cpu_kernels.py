"""The C++ kernels for packed weights, each instruction set and each method, against float64 and the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.kernels import cpu
from clisonix.kernels.binary import binary_matmul, pack_signs
from clisonix.kernels.integer import integer_matmul, integer_matmul_t, pack_codes
from clisonix.kernels.planes import Layout, packed_matmul, packed_matmul_t

LIBRARY = cpu.load("packed")
needs_library = pytest.mark.skipif(LIBRARY.missing is not None, reason=f"no C++ kernels: {LIBRARY.missing}")
ISAS = ["portable", "avx2", "avx512"][
    : 1 if LIBRARY.missing else 1 + ["portable", "avx2", "avx512"].index(torch.ops.clisonix.cpu_isa())
]
WAYS = [(isa, method) for isa in ISAS for method in ("unpack", "tables") if (isa, method) != ("portable", "tables")]
HALVES = [torch.float16, torch.bfloat16]
U = 2.0**-24
PROMISED = 1000  # units of the bound in the documentation of planes.py
USUAL = 40  # what inputs of one size need of it


@dataclass
class Case:
    """A packed matrix `(m, n)`, its entries in float64, and their largest possible sizes."""

    planes: Tensor
    scales: Tensor
    layout: Layout
    entries: Tensor
    sizes: Tensor

    def product(self, x: Tensor, isa: str, method: str, adjoint: bool) -> Tensor:
        result: Tensor = torch.ops.clisonix.cpu_matmul(
            x, self.scales, self.planes, *self.layout, adjoint, isa, method
        )
        return result


def make(m: int, n: int, bits: int, group: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Case:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (m, n), generator=generator, dtype=torch.uint8)
    scales = torch.randn(m, -(-n // group), generator=generator).to(dtype)
    step, offset = (2, 1) if bits == 1 else (1, 1 if bits == 2 and seed % 2 else 2 ** (bits - 1))
    spread = scales.double().repeat_interleave(group, dim=1)[:, :n]
    largest = max(abs(-offset), abs(step * (2**bits - 1) - offset))
    planes, layout = pack_codes(codes, bits), Layout(n, group, step, offset)
    return Case(planes, scales, layout, spread * (step * codes.double() - offset), spread.abs() * largest)


def randn(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(y: Tensor, exact: Tensor, size: Tensor, units: float = USUAL) -> None:
    """`y` is `exact` up to the errors of float32 sums of terms that have `size` together, rounded once."""
    assert y.shape == exact.shape
    rounding = 0.0 if y.dtype == torch.float32 else torch.finfo(y.dtype).eps * 0.51
    tiny = torch.finfo(y.dtype).smallest_normal
    assert ((y.double() - exact).abs() <= units * U * size + rounding * exact.abs() + tiny).all()


groups = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 128]), st.just(10**6))
sizes = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 257, 300, 600]))


@needs_library
@pytest.mark.parametrize(("isa", "method"), WAYS)
@given(sizes, sizes, st.integers(1, 8), groups, st.sampled_from([1, 2, 5, 8, 33]), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_products_agree_with_float64(
    isa: str, method: str, m: int, n: int, bits: int, group: int, batch: int, adjoint: bool, seed: int
) -> None:
    case = make(m, n, bits, min(group, n), seed)
    x = randn(batch, m if adjoint else n, seed=seed)
    entries, size = (case.entries, case.sizes) if adjoint else (case.entries.T, case.sizes.T)
    check(case.product(x, isa, method, adjoint), x.double() @ entries, x.double().abs() @ size)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@given(sizes, sizes, st.integers(1, 8), groups, st.sampled_from([1, 2, 7, 33, 97, 161]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_product_of_torch_with_unpacked_rows_agrees_with_float64(
    isa: str, m: int, n: int, bits: int, group: int, batch: int, seed: int
) -> None:
    case, x = make(m, n, bits, min(group, n), seed), randn(batch, n, seed=seed)
    check(case.product(x, isa, "library", False), x.double() @ case.entries.T, x.double().abs() @ case.sizes.T)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("adjoint", [False, True])
def test_no_row_is_lost_where_the_way_of_computing_changes(dtype: torch.dtype, adjoint: bool) -> None:
    for m, n in ((150, 170), (400, 33), (33, 400)):
        case = make(m, n, 5, 16)
        everything = randn(801, m if adjoint else n, dtype=dtype)
        entries, size = (case.entries, case.sizes) if adjoint else (case.entries.T, case.sizes.T)
        for batch in (95, 96, 97, 159, 160, 161, 383, 384, 385, 801):
            x = everything[:batch]
            function = packed_matmul_t if adjoint else packed_matmul
            y = function(x, case.scales, case.planes, case.layout, "cpu")
            check(y, x.double() @ entries, x.double().abs() @ size)


@needs_library
def test_many_rows_that_are_strided_or_learn_give_the_same() -> None:
    case, x = make(200, 300, 4, 32), randn(300, 260).T
    assert not x.is_contiguous()
    plain = packed_matmul(x.contiguous(), case.scales, case.planes, case.layout, "cpu")
    assert torch.equal(packed_matmul(x, case.scales, case.planes, case.layout, "cpu"), plain)
    assert torch.equal(
        packed_matmul(x.view(13, 20, 300), case.scales, case.planes, case.layout).view(260, 200), plain
    )
    given, scales = x.clone().requires_grad_(), case.scales.clone().requires_grad_()
    y = packed_matmul(given, scales, case.planes, case.layout, "cpu")
    assert torch.equal(y, plain)
    y.sum().backward()
    ones = torch.ones(260, 200, dtype=torch.float64)
    assert given.grad is not None
    assert scales.grad is not None
    check(given.grad, ones @ case.entries, ones @ case.sizes)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@given(sizes, sizes, st.integers(1, 8), groups, st.sampled_from([1, 2, 5, 33, 97]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_scale_sums_agree_with_float64(
    isa: str, m: int, n: int, bits: int, group: int, batch: int, seed: int
) -> None:
    case = make(m, n, bits, min(group, n), seed)
    left, right = randn(batch, m, seed=seed), randn(batch, n, seed=seed + 1)
    sums = torch.ops.clisonix.cpu_scale_sums(left, right, case.planes, *case.layout, isa)
    levels = make(m, n, bits, n, seed).entries / make(m, n, bits, n, seed).scales.double()
    of_group = torch.nn.functional.one_hot(torch.arange(n) // case.layout.group).double()
    exact = ((left.double().T @ right.double()) * levels) @ of_group
    check(sums, exact, ((left.double().abs().T @ right.double().abs()) * 2**bits) @ of_group)


@needs_library
@pytest.mark.parametrize(("isa", "method"), WAYS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("adjoint", [False, True])
def test_halves_are_computed_in_float32_and_rounded_once(
    isa: str, method: str, dtype: torch.dtype, adjoint: bool
) -> None:
    for scale_dtype in (dtype, torch.float32):
        case = make(37, 130, 2, 130, dtype=scale_dtype)
        x = randn(3, 37 if adjoint else 130, dtype=dtype)
        y = case.product(x, isa, method, adjoint)
        assert y.dtype == dtype
        entries, size = (case.entries, case.sizes) if adjoint else (case.entries.T, case.sizes.T)
        check(y, x.double() @ entries, x.double().abs() @ size)


@needs_library
@pytest.mark.parametrize(("isa", "method"), WAYS)
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("adjoint", [False, True])
def test_what_is_not_finite_spreads_as_in_a_dense_product(
    isa: str, method: str, bits: int, bad: float, adjoint: bool
) -> None:
    case = make(40, 200, bits, 200)
    x = randn(2, 40 if adjoint else 200)
    x[0, 7] = bad
    x[0, 30] = 1e38
    y = case.product(x, isa, method, adjoint)
    dense = x @ case.entries.float() if adjoint else x @ case.entries.float().T
    torch.testing.assert_close(y, dense, rtol=1e-4, atol=1e-4, equal_nan=True)


@needs_library
@pytest.mark.parametrize(("isa", "method"), WAYS)
@pytest.mark.parametrize("factor", [1e-40, 1e-30, 1e-20, 1e20, 1e33])
def test_very_small_and_very_large_inputs_lose_nothing(isa: str, method: str, factor: float) -> None:
    case, x = make(33, 300, 1, 300), randn(1, 300) * factor
    check(case.product(x, isa, method, False), x.double() @ case.entries.T, x.double().abs() @ case.sizes.T)


@needs_library
@pytest.mark.parametrize(("isa", "method"), WAYS)
@pytest.mark.parametrize("large", [1e2, 1e4, 1e6])
def test_one_input_far_larger_than_the_others_keeps_the_error_within_the_bound(
    isa: str, method: str, large: float
) -> None:
    case, x = make(64, 1024, 1, 1024), randn(1, 1024)
    x[0, 5] = large
    exact, size = x.double() @ case.entries.T, x.double().abs() @ case.sizes.T
    check(case.product(x, isa, method, False), exact, size, PROMISED)


@needs_library
@pytest.mark.parametrize("shape", [(9,), (0, 9), (2, 3, 9), (1, 1, 9)])
def test_any_number_of_leading_dimensions(shape: tuple[int, ...]) -> None:
    case, x = make(5, 9, 3, 4), randn(*shape)
    ours = packed_matmul(x, case.scales, case.planes, case.layout, "cpu")
    torch.testing.assert_close(ours, (x.double() @ case.entries.T).float())
    y = randn(*shape[:-1], 5)
    ours = packed_matmul_t(y, case.scales, case.planes, case.layout, "cpu")
    torch.testing.assert_close(ours, (y.double() @ case.entries).float())


@needs_library
@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_empty_matrices(m: int, n: int) -> None:
    planes, scales = pack_codes(torch.zeros(m, n, dtype=torch.uint8), 2), randn(m, 1)[:, : n > 0]
    forward = integer_matmul(randn(3, n), planes, scales, n, max(n, 1), 1, backend="cpu")
    assert forward.tolist() == torch.zeros(3, m).tolist()
    back = integer_matmul_t(randn(3, m), planes, scales, n, max(n, 1), 1, backend="cpu")
    assert back.tolist() == torch.zeros(3, n).tolist()
    vector = randn(m).requires_grad_()
    binary_matmul(randn(3, n), planes[0], vector, n, backend="cpu").sum().backward()
    assert vector.grad is not None
    assert vector.grad.tolist() == [0.0] * m


@needs_library
def test_strided_inputs_give_the_same_as_contiguous_ones() -> None:
    case = make(40, 90, 4, 16)
    for x in (randn(90, 8).T[::2], randn(1, 90).expand(4, 90), randn(4, 180)[:, ::2]):
        assert not x.is_contiguous()
        ours = packed_matmul(x, case.scales, case.planes, case.layout, "cpu")
        assert torch.equal(ours, packed_matmul(x.contiguous(), case.scales, case.planes, case.layout, "cpu"))
    turned = case.planes.mT.contiguous().mT
    x = randn(3, 90)
    assert torch.equal(
        packed_matmul(x, case.scales, turned, case.layout, "cpu"),
        packed_matmul(x, case.scales, case.planes, case.layout, "cpu"),
    )


@needs_library
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_of_any_order_are_those_of_the_reference(batch: int, adjoint: bool) -> None:
    case = make(20, 50, 3, 16)
    function = packed_matmul_t if adjoint else packed_matmul
    results = []
    for backend in ("cpu", "reference"):
        x, scales = randn(batch, 20 if adjoint else 50).requires_grad_(), case.scales.clone().requires_grad_()
        y = function(x, scales, case.planes, case.layout, backend)
        first = torch.autograd.grad(y.square().sum(), (x, scales), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, scales))
        results.append((y, *first, *second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_pass_the_checks_of_torch(dtype: torch.dtype) -> None:
    case = make(5, 11, 2, 4, dtype=dtype)
    x, y = randn(2, 3, 11, dtype=dtype).requires_grad_(), randn(2, 3, 5, dtype=dtype).requires_grad_()
    scales = case.scales.requires_grad_()
    for op, arguments in (
        (torch.ops.clisonix.packed_matmul, (x, scales)),
        (torch.ops.clisonix.packed_matmul_t, (y, scales)),
        (torch.ops.clisonix.packed_scale_sums, (y, x)),
    ):
        torch.library.opcheck(op, (*arguments, case.planes, *case.layout), atol=1e-2, rtol=1e-2)


@needs_library
def test_compiles_into_one_graph_with_the_same_values_and_gradients() -> None:
    torch._dynamo.reset()
    case = make(20, 50, 1, 50)
    scales = case.scales[:, 0].clone().requires_grad_()

    def function(x: Tensor) -> Tensor:
        return binary_matmul(x, case.planes[0], scales, 50, backend="cpu").relu()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = randn(4, 50).requires_grad_()
    assert torch.equal(compiled(x), function(x))
    ours = torch.autograd.grad(compiled(x).sum(), (x, scales))
    torch.testing.assert_close(ours, torch.autograd.grad(function(x).sum(), (x, scales)))


@needs_library
def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    case, x = make(1000, 700, 2, 700), randn(20, 700)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = packed_matmul(x, case.scales, case.planes, case.layout, "cpu")
            back = packed_matmul_t(y, case.scales, case.planes, case.layout, "cpu")
            results.append((y, back, torch.ops.clisonix.packed_scale_sums(y, x, case.planes, *case.layout)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_library
def test_float64_goes_to_the_reference_bit_for_bit() -> None:
    case, x = make(9, 30, 4, 8), randn(3, 30).double()
    ours = packed_matmul(x, case.scales, case.planes, case.layout)
    assert torch.equal(ours, packed_matmul(x, case.scales, case.planes, case.layout, "reference"))
    torch.testing.assert_close(ours, x @ case.entries.T)


@needs_library
def test_sizes_that_would_be_read_past_their_end_are_refused() -> None:
    case, x = make(9, 30, 4, 8), randn(3, 30)
    for arguments in (
        (x[:, :20], case.scales, case.planes),
        (x, case.scales[:5], case.planes),
        (x, case.scales, case.planes[..., :2]),
        (x, case.scales, case.planes.int()),
    ):
        with pytest.raises(RuntimeError, match="shape"):
            torch.ops.clisonix.packed_matmul(*arguments, *case.layout)
    with pytest.raises(RuntimeError, match="must end in"):
        torch.ops.clisonix.packed_scale_sums(x, x, case.planes, *case.layout)


def test_a_backend_that_does_not_fit_is_refused_in_a_sentence() -> None:
    packed, scales = pack_signs(randn(5, 11) >= 0), randn(5)
    with pytest.raises(ClisonixError, match="did you mean 'reference'"):
        binary_matmul(randn(11), packed, scales, 11, backend="referense")  # type: ignore[arg-type]
    with pytest.raises(ClisonixError, match=r"was given torch\.float64 on cpu"):
        binary_matmul(randn(11).double(), packed, scales.double(), 11, backend="cpu")
