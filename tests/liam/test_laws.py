"""The laws that every form of matrix keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import EMPTY, FORMS, SHAPES, Make, dense, diagonal, randn
from safetensors.torch import load, save
from torch.autograd import gradcheck

from clisonix.errors import ClisonixError
from clisonix.liam import Diagonal, Matrix

F64 = torch.float64
forms = pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
sizes = st.integers(0, 19)
drawn_forms = st.sampled_from(list(FORMS.values()))
quick = settings(max_examples=40, deadline=None)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@forms
@pytest.mark.parametrize(("m", "n"), SHAPES + EMPTY)
def test_every_product_equals_the_product_with_the_dense_entries(make: Make, m: int, n: int) -> None:
    a = make(m, n, F64)
    entries = a.dense()
    assert a.shape == tuple(entries.shape) == (m, n)
    vector, block, batch = randn(n), randn(n, 4), randn(2, n, 4)
    close(a @ vector, entries @ vector)
    close(a @ block, entries @ block)
    close(a @ batch, entries @ batch)
    close(a(randn(2, 3, n)), randn(2, 3, n) @ entries.T)
    close(randn(m) @ a, randn(m) @ entries)
    close(randn(2, 3, m) @ a, randn(2, 3, m) @ entries)
    assert (a @ randn(n, 0)).shape == (m, 0)
    assert a(randn(0, n)).shape == (0, m)


@given(drawn_forms, drawn_forms, sizes, sizes, sizes, st.floats(-3, 3))
@quick
def test_dense_is_a_homomorphism(make_a: Make, make_b: Make, m: int, n: int, p: int, scale: float) -> None:
    a, b, c = make_a(m, n, F64), make_b(m, n, F64), make_b(n, p, F64)
    close((a + b).dense(), a.dense() + b.dense())
    close((a - b).dense(), a.dense() - b.dense())
    close((a @ c).dense(), a.dense() @ c.dense())
    close(a.T.dense(), a.dense().T)
    close((scale * a).dense(), scale * a.dense())
    close((a * torch.tensor(scale, dtype=F64)).dense(), scale * a.dense())
    close((-a).dense(), -a.dense())


@given(drawn_forms, drawn_forms, sizes, sizes, sizes)
@quick
def test_transposing_is_an_involution_that_reverses_products(
    make_a: Make, make_b: Make, m: int, n: int, p: int
) -> None:
    a, b = make_a(m, n, F64), make_b(n, p, F64)
    close(a.T.T.dense(), a.dense())
    close((a @ b).T.dense(), (b.T @ a.T).dense())
    x, y = randn(n), randn(m)
    close(y @ (a @ x), (a.T @ y) @ x)


def test_a_diagonal_scales_rows_from_the_left_and_columns_from_the_right() -> None:
    d, a = diagonal(4, F64), dense(4, 4, F64)
    close((d @ a).dense(), d.entries[:, None] * a.dense())
    close((a @ d).dense(), a.dense() * d.entries)


@forms
def test_strided_and_transposed_inputs_give_the_same_as_contiguous_ones(make: Make) -> None:
    a = make(6, 9, F64)
    x = randn(9, 8).T[::2]
    assert not x.is_contiguous()
    close(a(x), a(x.contiguous()))
    y = randn(6, 8).T[::2]
    close(y @ a, y.contiguous() @ a)
    close(a(randn(1, 9).expand(5, 9)), a(randn(1, 9).repeat(5, 1)))


@forms
@pytest.mark.parametrize(("m", "n"), [(3, 5), (1, 2)])
def test_gradients_reach_the_input_and_every_parameter(make: Make, m: int, n: int) -> None:
    a = make(m, n, F64)
    names, values = zip(*[(k, v.detach().requires_grad_()) for k, v in a.named_parameters()], strict=True)

    def forward(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(a, dict(zip(names, parameters, strict=True)), (x,))

    assert gradcheck(forward, (randn(2, 1, n).requires_grad_(), *values))
    turned = a.T

    def adjoint(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = {f"inner.{k}": v for k, v in zip(names, parameters, strict=True)}
        return torch.func.functional_call(turned, named, (x,))

    if a.T.T is a:
        assert gradcheck(adjoint, (randn(2, m).requires_grad_(), *values))


@forms
def test_gradients_through_dense_equal_gradients_through_the_product(make: Make) -> None:
    a, x = make(5, 6, F64), randn(3, 6)
    weights = randn(3, 5, seed=9)
    lazy = torch.autograd.grad((a(x) * weights).sum(), list(a.parameters()), materialize_grads=True)
    opened = torch.autograd.grad((x @ a.dense().T * weights).sum(), list(a.parameters()), materialize_grads=True)
    for ours, theirs in zip(lazy, opened, strict=True):
        close(ours, theirs)


@forms
def test_compiles_into_one_graph_with_the_same_values_and_gradients(make: Make) -> None:
    torch._dynamo.reset()
    a, x = make(6, 9, F64), randn(4, 9).requires_grad_()
    compiled = torch.compile(a, fullgraph=True, backend="aot_eager")
    close(compiled(x), a(x))
    parameters = [x, *a.parameters()]
    ours = torch.autograd.grad(compiled(x).square().sum(), parameters, materialize_grads=True)
    theirs = torch.autograd.grad(a(x).square().sum(), parameters, materialize_grads=True)
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


@forms
def test_the_transpose_compiles_into_one_graph(make: Make) -> None:
    torch._dynamo.reset()
    a = make(6, 9, F64).T
    close(torch.compile(a, fullgraph=True, backend="aot_eager")(randn(4, 6)), a(randn(4, 6)))


@forms
@pytest.mark.parametrize(("m", "n"), [(6, 9), (8, 16), (0, 4)])
def test_nbytes_is_the_tensor_data_in_a_safetensors_file(make: Make, m: int, n: int) -> None:
    a = make(m, n, torch.float32)
    file = save(a.state_dict())
    header = 8 + int.from_bytes(file[:8], "little")
    assert len(file) - header == a.nbytes


@forms
def test_a_safetensors_round_trip_restores_every_bit(make: Make) -> None:
    a = make(6, 9, torch.float32)
    other = copy.deepcopy(a)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(7)
    other.load_state_dict(load(save(a.state_dict())))
    assert torch.equal(other.dense(), a.dense())


@forms
def test_a_deep_copy_is_equal_and_shares_nothing(make: Make) -> None:
    a = make(6, 9, F64)
    before, b = a.dense().detach().clone(), copy.deepcopy(a)
    close(b.dense(), before)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.add_(1)
    close(a.dense(), before)


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_change_of_dtype_moves_entries_and_products(make: Make, dtype: torch.dtype) -> None:
    a = make(6, 9, F64).to(dtype)
    assert a.dtype == dtype == a.dense().dtype
    x = randn(4, 9, dtype=dtype)
    assert a(x).dtype == dtype
    expected = (x.double() @ a.dense().double().T).detach()
    size = float(expected.abs().max())
    torch.testing.assert_close(
        a(x).detach().double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps * size + 1e-7
    )
    y = randn(4, 6, dtype=dtype)
    assert (y @ a).dtype == dtype


@forms
def test_works_and_learns_under_autocast(make: Make) -> None:
    a, x = make(6, 9, torch.float32), randn(4, 9, dtype=torch.float32)
    expected = x @ a.dense().T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # What another layer hands on under autocast is in half precision, while the parameters are not.
        for y in (a(x.bfloat16()), a(x)):
            grads = torch.autograd.grad(y.float().sum(), list(a.parameters()), materialize_grads=True)
            assert all(g.dtype == p.dtype for g, p in zip(grads, a.parameters(), strict=True))
            torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.3)


@forms
def test_moving_to_the_meta_device_keeps_shapes(make: Make) -> None:
    a = make(6, 9, F64).to("meta")
    assert a.device.type == "meta"
    assert a(torch.empty(4, 9, dtype=F64, device="meta")).shape == (4, 6)


@forms
def test_sizes_that_do_not_fit_are_refused_in_a_sentence(make: Make) -> None:
    a = make(6, 9, F64)
    for product in (lambda: a @ randn(6), lambda: a @ randn(1), lambda: randn(4, 9) @ a, lambda: randn(1) @ a):
        with pytest.raises(ClisonixError, match=r"shape \(6, 9\) cannot multiply"):
            product()
    with pytest.raises(ClisonixError, match="differ"):
        a @ make(6, 9, F64)
    with pytest.raises(ClisonixError, match="cannot be added"):
        a + make(5, 9, F64)
    with pytest.raises(ClisonixError, match="is written `c"):
        a @ torch.tensor(2.0, dtype=F64)


def test_a_size_of_one_is_never_broadcast() -> None:
    for x in (randn(3, 1), randn(1)):
        with pytest.raises(ClisonixError, match="must be 4"):
            Diagonal(randn(4))(x)


def test_operators_with_strangers_are_type_errors() -> None:
    a = dense(3, 3, F64)
    for attempt in (lambda: a @ "x", lambda: a + 1, lambda: a - "x", lambda: randn(3, 3) + a, lambda: a * a):
        with pytest.raises(TypeError):
            attempt()
    with pytest.raises(ClisonixError, match="scaled by one number"):
        a * randn(3)


def test_operators_share_tensors_so_that_gradients_reach_the_operands() -> None:
    a, b = dense(4, 4, F64), diagonal(4, F64)
    c: Matrix = 2 * (a + b @ a).T - a
    c(randn(3, 4)).sum().backward()
    assert a.weight.grad is not None
    assert b.entries.grad is not None
    # `a` occurs three times and is stored, and counted, once.
    assert c.nbytes == a.nbytes + b.nbytes + 2 * 8


def test_the_name_of_a_matrix_tells_its_shape_type_and_size() -> None:
    assert repr(dense(3, 2, torch.float16)) == "Dense(3×2, float16, 12 bytes)"
