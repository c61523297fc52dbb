"""A tiled matrix is the same matrix: by every way to look at it, to keep it and to take it apart."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clisonix import liam
from clisonix.liam import Binary, Integer, LowRank, Matrix, Product, Ternary, double_binary, tile_
from clisonix.liam.absorb import take
from clisonix.liam.tiled import Packed

M, N = 96, 200


def weight() -> Tensor:
    return torch.randn(M, N, generator=torch.Generator().manual_seed(0))


FORMS = {
    "binary": lambda: Binary.nearest(weight()),
    "ternary": lambda: Ternary.nearest(weight()),
    "integer": lambda: Integer.rounded(weight(), 4, 64),
    "three bits": lambda: Integer.rounded(weight(), 3, 40),
    "double binary": lambda: double_binary(weight(), rank=64),
    "packed low rank": lambda: LowRank(Binary.nearest(weight()[:, :64]), Binary.nearest(weight()[:64])),
}


@pytest.fixture(params=FORMS)
def pair(request: pytest.FixtureRequest) -> tuple[Matrix, Matrix]:
    """By row and tiled."""
    matrix = FORMS[request.param]()
    return matrix, tile_(copy.deepcopy(matrix))


def parts(matrix: nn.Module) -> list[Packed]:
    return [part for part in matrix.modules() if isinstance(part, Packed)]


def test_results_are_the_same_bits(pair: tuple[Matrix, Matrix]) -> None:
    rows, tiled = pair
    assert parts(tiled)
    assert all(part.is_tiled for part in parts(tiled))
    assert not any(part.is_tiled for part in parts(rows))
    x, y = torch.randn(3, N), torch.randn(3, M)
    assert torch.equal(tiled(x), rows(x))
    assert torch.equal(tiled.adjoint(y), rows.adjoint(y))
    assert torch.equal(tiled.dense(), rows.dense())
    assert torch.equal(tiled[3:50, 7:100](x[:, 7:100]), rows[3:50, 7:100](x[:, 7:100]))
    assert torch.equal(tiled[3:50].adjoint(y[:, 3:50]), rows[3:50].adjoint(y[:, 3:50]))
    index = torch.tensor([5, 40, 95, 5])
    taken = take(tiled, index, range(N))
    assert taken is None or torch.equal(taken.dense(), rows.dense()[index])


def test_state_and_size_do_not_tell(pair: tuple[Matrix, Matrix]) -> None:
    rows, tiled = pair
    state, shown = rows.state_dict(), tiled.state_dict()
    assert state.keys() == shown.keys()
    assert all(torch.equal(state[name], shown[name]) for name in state)
    assert tiled.nbytes == rows.nbytes
    other = tile_(copy.deepcopy(rows))
    with torch.no_grad():
        for part in parts(other):
            getattr(part, part.BITS).zero_()
    other.load_state_dict(state)
    assert all(part.is_tiled for part in parts(other))
    assert torch.equal(other.dense(), rows.dense())
    other.load_state_dict(shown, assign=True)
    assert torch.equal(other.dense(), rows.dense())


def test_one_matrix_with_two_names_has_one_state() -> None:
    shared = tile_(FORMS["binary"]())
    state = nn.ModuleDict({"a": shared, "b": shared}).state_dict(keep_vars=True)
    assert state["a.packed"] is state["b.packed"]
    assert state["a.packed"].shape == (M, N // 8)


def test_copies_and_pickles(pair: tuple[Matrix, Matrix]) -> None:
    rows, tiled = pair
    tiled.state_dict()
    kept = io.BytesIO()
    torch.save(tiled, kept)
    kept.seek(0)
    for other in (copy.deepcopy(tiled), torch.load(kept, weights_only=False)):
        assert all(part.is_tiled for part in parts(other))
        assert torch.equal(other.dense(), rows.dense())


def test_back_by_row_and_other_dtypes(pair: tuple[Matrix, Matrix]) -> None:
    rows, tiled = pair
    for part in parts(tiled):
        part.untile_()
        assert not part.is_tiled
    assert torch.equal(tiled.dense(), rows.dense())
    wide = tile_(tiled).double()
    assert all(part.is_tiled for part in parts(wide))
    assert torch.equal(wide.dense(), copy.deepcopy(rows).double().dense())


def test_other_devices_get_rows() -> None:
    # A device that this machine lacks: `_apply` is what moves a module there.
    matrix = tile_(FORMS["ternary"]())
    assert matrix.to("meta").planes.device.type == "meta"
    matrix = tile_(FORMS["ternary"]())

    class Elsewhere(Tensor):
        device = torch.device("cuda")

    matrix._apply(lambda tensor: tensor.as_subclass(Elsewhere) if tensor.dtype == torch.uint8 else tensor)
    assert matrix.planes.shape == (2, M, N // 8)


def test_rows_that_fill_no_tile_stay_as_they_are() -> None:
    matrix = tile_(Binary.nearest(torch.randn(33, 64)))
    assert not matrix.is_tiled
    assert not tile_(Integer.rounded(torch.randn(0, 64), 2)).is_tiled


def test_compiles_whole() -> None:
    matrix, x = tile_(FORMS["integer"]()), torch.randn(2, N)
    compiled = torch.compile(matrix, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), matrix(x))


@pytest.mark.parametrize("form", ["binary", "ternary"])
def test_unpacked_to_learn(form: str) -> None:
    rows, tiled = FORMS[form](), tile_(FORMS[form]())
    assert torch.equal(tiled.unpack().dense(), rows.unpack().dense())


def test_a_compressed_model_saves_and_loads(tmp_path: Path) -> None:
    from clisonix import compress

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 64), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96))
    ids = torch.randint(0, 64, (5, 3))
    small = compress.compress(model, budget=0.1, calibration=[ids])
    expected = small(ids)
    compress.save(small, tmp_path / "rows.safetensors")
    tile_(small)
    assert any(part.is_tiled for part in parts(small))
    assert torch.equal(small(ids), expected)
    compress.save(small, tmp_path / "tiled.safetensors")
    assert (tmp_path / "rows.safetensors").read_bytes() == (tmp_path / "tiled.safetensors").read_bytes()
    again = compress.load(tmp_path / "tiled.safetensors", into=model)
    assert torch.equal(again(ids), expected)


def test_a_product_shares_the_factors_it_was_given() -> None:
    left, right = Binary.nearest(weight()[:, :64]), Binary.nearest(weight()[:64])
    tile_(Product(left, right))
    assert left.is_tiled
    assert right.is_tiled
    assert liam.tile_(left) is left
