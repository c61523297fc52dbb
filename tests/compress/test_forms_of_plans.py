"""A form knows every tensor of a matrix before there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_forms import FORMS, filled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clisonix.compress import Form, converted, form_of, load, save
from clisonix.compress.sizes import spec_of
from clisonix.errors import ClisonixError
from clisonix.liam import BlockDiagonal, Dense, LowRank, Sparse

SIZES = st.integers(1, 19)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def fits(form: Form, shape: tuple[int, int]) -> bool:
    try:
        form.check("it", shape)
    except ClisonixError:
        return False
    return True


def one_name(form: Form, n: int) -> Form:
    """Groups as wide as both factors are no groups: the same matrix has one name."""
    whole = form.kind == "lowrank" and form.group is not None and form.group == form.rank == n
    return replace(form, group=None) if whole else form


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMS), SIZES, SIZES, DTYPES)
def test_a_form_says_what_its_matrix_holds(form: Form, m: int, n: int, dtype: torch.dtype) -> None:
    if not fits(form, (m, n)):
        return
    matrix = form.empty((m, n), dtype)
    held = {spec_of(f"layer.weight.{name}", tensor) for name, tensor in matrix.state_dict(keep_vars=True).items()}
    assert set(form.specs("layer.weight", (m, n), dtype)) == held
    assert form.nbytes((m, n), dtype) == matrix.nbytes
    assert matrix.shape == (m, n)
    assert matrix.dtype == dtype
    assert form_of(matrix) == one_name(form, n)
    assert form_of(matrix, dtype) == one_name(form, n)
    assert Form.from_json(form.to_json()) == form
    assert not matrix.dense().any()
    assert str(form)
    on_meta = form.empty((m, n), dtype, "meta").state_dict(keep_vars=True)
    assert {spec_of(f"layer.weight.{name}", tensor) for name, tensor in on_meta.items()} == held


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMS), SIZES, SIZES, st.integers(0, 9))
def test_every_form_comes_back_from_a_file_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, form: Form, m: int, n: int, seed: int
) -> None:
    if not fits(form, (m, n)):
        return
    file = tmp_path_factory.getbasetemp() / "form.safetensors"
    matrix = filled(form, (m, n), seed=seed)
    small = converted(nn.Sequential(nn.Linear(n, m)), {"0.weight": matrix})
    save(small, file)
    with torch.device("meta"):
        back = load(file, into=nn.Sequential(nn.Linear(n, m)))
    assert form_of(back[0].weight) == one_name(form, n)
    before, after = small.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.contiguous().view(torch.uint8).equal(after[name].contiguous().view(torch.uint8))


def test_a_form_of_another_precision_than_the_model() -> None:
    matrix = LowRank(torch.zeros(4, 2).half(), torch.zeros(2, 6).half())
    form = form_of(matrix, torch.float32)
    assert form == Form("lowrank", rank=2, dtype="float16")
    assert form.nbytes((4, 6), torch.float32) == matrix.nbytes == form.nbytes((4, 6), torch.float64)
    assert form.empty((4, 6), torch.float32).dtype == torch.float16
    assert str(form) == "low rank 2, float16"


def test_keep_is_the_dense_weight() -> None:
    keep = Form("keep")
    assert keep.nbytes((4, 6), torch.float16) == 48
    with pytest.raises(ClisonixError, match="no matrix of its own"):
        keep.empty((4, 6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "is no form"),
        ({}, "is no form"),
        ({"kind": "low rank"}, "unknown; did you mean 'lowrank'"),
        ({"kind": "lowrank"}, "lacks 'rank'"),
        ({"kind": "binary", "rank": 3}, "'rank', which means nothing there"),
        ({"kind": "lowrank", "rank": 0}, "whole number from 1"),
        ({"kind": "lowrank", "rank": True}, "whole number from 1"),
        ({"kind": "lowrank", "rank": 2.0}, "whole number from 1"),
        ({"kind": "lowrank", "rank": 10**30}, "whole number from 1"),
        ({"kind": "lowrank", "rank": 2, "group": 4}, "bits of its factors"),
        ({"kind": "integer", "bits": 9, "group": 4}, "from 1 to 8"),
        ({"kind": "sparse", "nnz": -1}, "whole number"),
        ({"kind": "block sparse", "nnz": 1, "block": [2]}, "list of whole numbers"),
        ({"kind": "sum"}, "0 parts; give 1 to 16"),
        ({"kind": "sum", "parts": 3}, "give a list of forms"),
        ({"kind": "sum", "parts": [{"kind": "keep"}]}, "is kept"),
        ({"kind": "product", "inner": [1, 2], "parts": [{"kind": "binary"}]}, "1 parts has 2 inner"),
        ({"kind": "binary", "dtype": "int8"}, "give one of float16"),
        ({"kind": "binary", "ranc": 3}, "unknown key 'ranc'; did you mean 'rank'"),
    ],
)
def test_forms_that_make_no_sense(content: Any, message: str) -> None:
    with pytest.raises(ClisonixError, match=message):
        Form.from_json(content)


def test_forms_without_end() -> None:
    content: Any = {"kind": "binary"}
    for _ in range(10):
        content = {"kind": "transpose", "parts": [content]}
    with pytest.raises(ClisonixError, match="within one another"):
        Form.from_json(content)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form("lowrank", rank=5), "from 1 to 4"),
        (Form("double binary", rank=257), "from 1 to 256"),
        (Form("sparse", nnz=37), "at most 36"),
        (Form("block sparse", nnz=7, block=(2, 3)), "at most 6"),
        (Form("diagonal"), "square"),
        (Form("product", inner=(10**6,), parts=(Form("binary"), Form("binary"))), "smaller"),
        (Form("sum", parts=(Form("binary"), Form("lowrank", rank=9))), "from 1 to 4"),
    ],
)
def test_forms_that_a_shape_does_not_allow(form: Form, message: str) -> None:
    with pytest.raises(ClisonixError, match=message):
        form.check("'w'", (4, 9))
    with pytest.raises(ClisonixError, match=message):
        form.empty((4, 9), device="meta")


def test_matrices_without_a_form() -> None:
    with pytest.raises(ClisonixError, match="a BlockDiagonal has no form"):
        form_of(BlockDiagonal(Dense(torch.ones(2, 2))))
    wide = Sparse.from_tensor(torch.eye(3))
    wide.crow, wide.col = wide.crow.long(), wide.col.long()
    with pytest.raises(ClisonixError, match="holds other tensors than its form"):
        form_of(wide)


def test_what_cannot_be_saved_names_the_weight(tmp_path: Path) -> None:
    small = converted(nn.Sequential(nn.Linear(2, 2)), {"0.weight": BlockDiagonal(Dense(torch.ones(2, 2)))})
    with pytest.raises(ClisonixError, match=r"'0\.weight' cannot be saved: a BlockDiagonal"):
        save(small, tmp_path / "never.safetensors")
