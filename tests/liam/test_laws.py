"""The laws that every form of matrix keeps."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import EMPTY, FORMS, SHAPES, Make, dense, diagonal, randn
from safetensors.torch import load, save
from torch.autograd import gradcheck

from clisonix.errors import ClisonixError
from clisonix.liam import BlockDiagonal, Cat, Diagonal, Matrix

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


def brackets(size: int) -> st.SearchStrategy[Any]:
    """Every kind of thing that may stand between the brackets for a side of `size`."""
    place = st.integers(-size, size - 1)
    booleans = st.lists(st.booleans(), min_size=size, max_size=size)
    return st.one_of(st.slices(size), place, st.lists(place, max_size=size + 2), booleans)


@given(drawn_forms, brackets(6), brackets(7))
@settings(max_examples=80, deadline=None)
def test_slicing_commutes_with_dense_and_with_products(make: Make, rows: Any, columns: Any) -> None:
    a = make(6, 7, F64)
    part, entries = a[rows, columns], a.dense().detach()
    for dim, key in enumerate((rows, columns)):
        places = np.atleast_1d(np.arange(entries.shape[dim])[np.asarray(key, dtype=int) if key == [] else key])
        entries = entries.index_select(dim, torch.from_numpy(places.copy()))
    m, n = entries.shape
    assert part.shape == (m, n)
    close(part.dense(), entries)
    close(part(randn(2, n)), randn(2, n) @ entries.T)
    close(randn(2, m) @ part, randn(2, m) @ entries)
    close(part @ randn(n, 2), entries @ randn(n, 2))
    close(part.T.dense(), entries.T)


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


@forms
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_transpose_is_the_adjoint(make: Make, m: int, n: int) -> None:
    a, x, y = make(m, n, F64), randn(3, n), randn(3, m, seed=1)
    close((a(x) * y).sum(-1), (x * (y @ a)).sum(-1))
    close(a.T(y), y @ a)
    close(a.T.adjoint(x), a(x))


@forms
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_every_output_that_depends_on_it(make: Make, bad: float) -> None:
    a = make(6, 9, F64)
    x = randn(2, 9)
    x[1, 4] = bad
    y = a(x)
    assert y[0].isfinite().all()
    # Where no entry is stored nothing passes; a stored zero passes NaN, and 0 * inf is NaN too.
    assert not y[1][a.dense()[:, 4] != 0].isfinite().any()
    z = a.adjoint(torch.stack([randn(6), torch.full((6,), bad, dtype=F64)]))
    assert z[0].isfinite().all()
    assert not z[1][(a.dense() != 0).any(0)].isfinite().any()


@forms
def test_zero_parameters_give_a_zero_matrix_that_still_multiplies(make: Make) -> None:
    a = make(6, 9, F64)
    with torch.no_grad():
        for name, parameter in a.named_parameters():
            if not name.endswith("latent"):
                parameter.zero_()
    expected = a.dense()
    close(a(randn(2, 9)), randn(2, 9) @ expected.T)
    close(randn(2, 6) @ a, randn(2, 6) @ expected)


@forms
def test_frozen_matrices_and_inference_mode_give_the_same_values_without_a_graph(make: Make) -> None:
    a, x = make(6, 9, F64), randn(4, 9)
    expected = a(x).detach()
    frozen = copy.deepcopy(a).requires_grad_(False)
    assert not frozen(x).requires_grad
    close(frozen(x), expected)
    assert frozen(x.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        close(a(x), expected)
        close(a @ x.T, expected.T)
        close(randn(4, 6) @ a, (a.T(randn(4, 6))))


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
    # A latent gets a straight-through gradient, which is not the derivative of its level; test_latent holds it.
    trained = [(k, v.detach().requires_grad_()) for k, v in a.named_parameters() if not k.endswith("latent")]
    names, values = zip(*trained, strict=True)

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


@pytest.mark.parametrize("form", ["lowrank", "binary", "sum", "diagonal product", "slice", "packed lowrank", "batch"])
def test_named_products_compile_once_for_every_size_of_batch(form: str) -> None:
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def count_graphs(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    a = FORMS[form](6, 9, F64)

    def both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return a.matmul(x) + a.adjoint(y).mT[:6]

    compiled = torch.compile(both, fullgraph=True, backend=count_graphs, dynamic=True)
    for count in (5, 40, 20_000):
        x, y = randn(9, count), randn(count, 6)
        close(compiled(x, y), both(x, y))
    assert len(graphs) == 1


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
def test_the_state_is_tensors_only(make: Make) -> None:
    a = make(6, 9, torch.float32)
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    other = make(6, 9, torch.float32)
    other.load_state_dict(torch.load(file, weights_only=True))
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@forms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_products_on_a_gpu_equal_products_on_the_cpu(make: Make, dtype: torch.dtype) -> None:
    a, x, y = make(17, 33, F64).to(dtype), randn(5, 33, dtype=dtype), randn(5, 17, dtype=dtype)
    b = copy.deepcopy(a).cuda()
    tolerance = 40 * torch.finfo(dtype).eps
    for ours, theirs in ((b(x.cuda()), a(x)), (y.cuda() @ b, y @ a), (b @ x.cuda().T, a @ x.T)):
        expected = theirs.detach().double()
        size = float(expected.abs().max())
        torch.testing.assert_close(ours.detach().cpu().double(), expected, rtol=0, atol=tolerance * size + 1e-7)


@forms
def test_another_dtype_or_device_is_refused_in_a_sentence(make: Make) -> None:
    a = make(6, 9, F64)
    products = (lambda x: a(x), lambda x: a @ x.T, lambda x: a @ x[0], lambda x: x[:, :6] @ a)
    for multiply in products:
        with pytest.raises(ClisonixError, match=r"float64 cannot multiply a tensor of torch.float32: convert"):
            multiply(torch.ones(2, 9))
        with pytest.raises(ClisonixError, match=r"device cpu cannot multiply a tensor of device meta: move"):
            multiply(torch.ones(2, 9, dtype=F64, device="meta"))
    other = make(6, 9, torch.float32)
    for combine in (lambda: a + other, lambda: a @ other.T, lambda: Cat(a, other), lambda: BlockDiagonal(a, other)):
        with pytest.raises(ClisonixError, match=r"float64 on cpu and \w+ of torch.float32 on cpu cannot be"):
            combine()


@forms
def test_sizes_that_do_not_fit_are_refused_in_a_sentence(make: Make) -> None:
    a = make(6, 9, F64)
    for product in (lambda: a @ randn(6), lambda: a @ randn(1), lambda: randn(4, 9) @ a, lambda: randn(1) @ a):
        with pytest.raises(ClisonixError, match=r"shape \(6, 9\) cannot multiply"):
            product()
    for multiply in (a, a.adjoint):
        with pytest.raises(ClisonixError, match="it needs one or more dimensions"):
            multiply(torch.tensor(1.0, dtype=F64))
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
    with pytest.raises(ClisonixError, match=r"scale is torch.float32 on cpu and Dense is torch.float64 on cpu"):
        a * torch.nn.Parameter(torch.ones(()))


def test_hooks_on_the_factors_of_a_product_are_called() -> None:
    called = []
    d = diagonal(4, F64)
    product = dense(4, 4, F64) @ d @ dense(4, 4, F64)
    d.register_forward_hook(lambda *_: called.append("after"))
    d.register_forward_pre_hook(lambda *_: called.append("before"))
    product(randn(4))
    assert called == ["before", "after"]


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
