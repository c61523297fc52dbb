"""What permutations, slices and blocks promise beyond the laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import FORMS, Make, batch, binary, dense, diagonal, integer, lowrank, permutation, randn, sparse
from torch.utils.flop_counter import FlopCounterMode

from clisonix.errors import ClisonixError
from clisonix.liam import Batch, BlockDiagonal, Cat, Dense, Permutation, Slice, Transpose
from clisonix.liam.selection import shares

F64 = torch.float64


@given(st.permutations(range(7)))
@settings(max_examples=20, deadline=None)
def test_a_permutation_and_its_transpose_undo_each_other(order: list[int]) -> None:
    p, x = Permutation(torch.tensor(order), F64), randn(3, 7)
    assert torch.equal(p(x), x[:, order])
    for product in (p.T @ p, p @ p.T, p @ p.inverse()):
        assert torch.equal(product(x), x)
        assert torch.equal(product @ x.T, x.T)
    assert torch.equal(p.inverse().dense(), p.dense().T)


def test_a_permutation_costs_its_index_and_follows_the_dtype_of_its_module() -> None:
    p = Permutation(torch.randperm(100).int())
    assert (p.nbytes, list(p.state_dict())) == (400, ["index"])
    assert p.half().dtype == torch.float16
    assert p.index.dtype == torch.int32
    assert Permutation(torch.arange(3), F64).dtype == F64


def test_an_index_that_is_no_permutation_is_refused_also_from_a_file() -> None:
    for index in (torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([-1, 0])):
        with pytest.raises(ClisonixError, match="no permutation: 2 places need every number from 0 to 1 once"):
            Permutation(index)
    for index in (torch.tensor([0.0, 1.0]), torch.tensor([[0]]), torch.tensor([0], dtype=torch.uint8)):
        with pytest.raises(ClisonixError, match="give int32 or int64 of shape"):
            Permutation(index)
    with pytest.raises(ClisonixError, match="no floating-point type"):
        Permutation(torch.arange(2), torch.int64)
    p = Permutation(torch.arange(3))
    with pytest.raises(ClisonixError, match="no permutation"):
        p.load_state_dict({"index": torch.zeros(3, dtype=torch.int64)})


def test_indexing_keeps_matrices_and_shares_tensors() -> None:
    a = dense(6, 8, F64)
    assert a[:, :] is a
    assert (a[2].shape, a[:, -1].shape, a[2, 3].shape) == ((1, 8), (6, 1), (1, 1))
    part = a[1:5][::2, [0, 0, 7]]
    assert isinstance(part, Slice)
    assert part.inner is a
    part(randn(2, 3)).sum().backward()
    assert a.weight.grad is not None
    assert set(a.weight.grad.nonzero()[:, 0].tolist()) == {1, 3}
    with pytest.raises(TypeError):
        iter(a)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (6, "rows has no place 6: there are 6"),
        ((slice(None), -9), "columns has no place -9: there are 8"),
        ([0, 7], "rows has no place 7"),
        ([0, -7], "rows has no place -7"),
        (torch.tensor([0.0]), "give a vector of whole numbers, or of 6 booleans"),
        (torch.tensor([[0]]), "give a vector of whole numbers"),
        ([True, False], "or of 6 booleans"),
        (1.5, "cannot be taken by a float"),
        ("x", "cannot be taken by a str"),
        (slice(0, 4, 0), "cannot be taken"),
        (slice(0.5, 2), "cannot be taken"),
        ((0, 0, 0), "3 indices were given"),
        (None, "cannot be taken by a NoneType"),
    ],
)
def test_a_place_that_does_not_exist_is_refused_in_a_sentence(key: object, expected: str) -> None:
    with pytest.raises(ClisonixError, match=expected):
        dense(6, 8, F64)[key]  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "share"),
    [
        (lambda: dense(64, 64, F64), 1 / 16),
        (lambda: lowrank(64, 64, F64), 1 / 4),
        (lambda: dense(64, 64, F64) + lowrank(64, 64, F64), 1 / 10),
        (lambda: dense(64, 64, F64) @ dense(64, 64, F64), 1 / 4),
        (lambda: (2 * dense(64, 64, F64)).T, 1 / 16),
    ],
)
def test_a_slice_multiplies_only_what_it_needs(make: object, share: float) -> None:
    a = make()  # type: ignore[operator]
    part = a[16:32, list(range(0, 64, 4))]

    def flops(matrix: object, n: int) -> int:
        with FlopCounterMode(display=False) as counter:
            matrix(randn(5, n))  # type: ignore[operator]
        return counter.get_total_flops()

    assert flops(part, 16) <= share * flops(a, 64)


@pytest.mark.parametrize("make", [binary, integer], ids=["binary", "integer"])
def test_rows_of_packed_forms_are_cut_before_they_are_multiplied(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a = make(40, 16, F64)
    part, entries = a[3:7, 1:], a.dense()[3:7, 1:]

    def refuse(*_: object) -> None:
        raise AssertionError("the whole matrix was multiplied")

    monkeypatch.setattr(type(a), "forward", refuse)
    monkeypatch.setattr(type(a), "adjoint", refuse)
    torch.testing.assert_close(part(randn(2, 15)), randn(2, 15) @ entries.T)
    torch.testing.assert_close(randn(2, 4) @ part, randn(2, 4) @ entries)


def test_places_are_named_by_anything_that_lists_them() -> None:
    a = dense(6, 8, F64)
    expected = a.dense()[[1, 4]]
    for rows in ([1, 4], range(1, 5, 3), np.array([1, 4]), torch.tensor([1, 4], dtype=torch.int32), [-5, -2]):
        part = a[rows]
        assert torch.equal(part.dense(), expected)
        torch.testing.assert_close(randn(3, 2) @ part, randn(3, 2) @ expected)
    assert a[np.zeros(6, dtype=bool), []].shape == (0, 0)
    assert torch.equal(a[np.int64(1), torch.tensor(2)].dense(), a.dense()[1:2, 2:3])


def test_places_are_saved_and_ranges_are_not() -> None:
    a = dense(6, 8, F64)
    assert list(a[1:3].state_dict()) == ["inner.weight"]
    assert sorted(a[[1, 2], :3].state_dict()) == ["inner.weight", "rows"]


def test_a_range_of_blocks_takes_only_the_blocks_it_meets() -> None:
    q, k, v = (dense(4, 6, F64) for _ in range(3))
    stacked = Cat(q, k, v)
    assert stacked[4:8] is k
    assert stacked.T[:, 8:].T is v
    for part in (stacked[2:10:3, 1:], Cat(q, k, dim=1)[1:, 4:9:2], BlockDiagonal(q, k)[3:7, 2:11]):
        assert isinstance(part, Cat | BlockDiagonal)
        assert not any(isinstance(block, Slice) and isinstance(block.inner, Cat) for block in part.modules())
    assert stacked[4:4].shape == (0, 6)
    assert isinstance(stacked[[4, 5]], Slice)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_shares_of_a_range_are_what_it_takes_of_each_part(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    chosen = range(total)[data.draw(st.slices(total))]
    if chosen.step < 0:
        chosen = chosen[::-1]
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    found = [offset + place for offset, own in zip(offsets, shares(chosen, sizes), strict=True) for place in own]
    assert found == list(chosen)


def test_damaged_places_of_a_slice_are_refused_when_loaded() -> None:
    part = dense(6, 8, F64)[[1, 2], :]
    state = part.state_dict() | {"rows": torch.tensor([1, 6])}
    with pytest.raises(ClisonixError, match=r"lie in 0..5, but reach from 1 to 6"):
        part.load_state_dict(state)


def test_equal_small_blocks_are_one_batched_product() -> None:
    def products(matrix: torch.nn.Module) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            matrix(x)
        names = [event.name for event in profile.events()]
        return sum(name in ("aten::mm", "aten::bmm", "aten::addmm") for name in names)

    x = randn(7, 8 * 5)
    dense_blocks = [Dense(randn(4, 5, seed=i)) for i in range(8)]
    thin_blocks = [lowrank(4, 5, F64) for _ in range(8)]
    assert products(BlockDiagonal(*dense_blocks)) == 1
    assert products(BlockDiagonal(*thin_blocks)) == 2
    assert products(Batch(randn(8, 4, 5))) == 1
    for blocks in (dense_blocks, thin_blocks):
        a = BlockDiagonal(*blocks)
        torch.testing.assert_close(a(x), x @ a.dense().T)
        torch.testing.assert_close(a.T(randn(7, 32)), randn(7, 32) @ a.dense())
        a(x).sum().backward()
        assert all(parameter.grad is not None for parameter in a.parameters())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_a_batch_is_a_grouped_convolution(groups: int, out: int, channels: int, kernel: int) -> None:
    signal, weight = randn(2, groups * channels, 9), randn(groups * out, channels, kernel, seed=1)
    expected = torch.nn.functional.conv1d(signal, weight, groups=groups)
    a = Batch(weight.reshape(groups, out, channels * kernel))
    windows = signal.unfold(-1, kernel, 1).permute(0, 2, 1, 3).reshape(2, -1, groups * channels * kernel)
    torch.testing.assert_close(a(windows).mT, expected)


def test_blocks_that_do_not_fit_are_refused_in_a_sentence() -> None:
    for expected, build in {
        "cannot be stacked; give equal columns": lambda: Cat(dense(2, 3, F64), dense(2, 4, F64)),
        "cannot be set side by side; give equal rows": lambda: Cat(dense(2, 3, F64), dense(4, 3, F64), dim=1),
        "dim=2 is no side": lambda: Cat(dense(2, 3, F64), dim=2),
        "give at least one": lambda: Cat(),
        "no blocks has no shape": lambda: BlockDiagonal(),
        "3 dimensions": lambda: Batch(randn(2, 3)),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            build()


def test_the_transpose_of_a_transpose_is_the_matrix_itself() -> None:
    for make in FORMS.values():
        a = make(5, 6, F64)
        assert a.T.T is a or isinstance(a, Transpose)


def test_names_tell_what_blocks_and_products_hold() -> None:
    assert "3 blocks" in repr(batch(3, 6, F64))
    assert "dim=1" in repr(Cat(sparse(2, 3, F64), diagonal(2, F64), dim=1))
    assert repr(permutation(3, torch.float32)) == "Permutation(3×3, float32, 24 bytes)"
