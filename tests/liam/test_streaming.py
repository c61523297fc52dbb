"""A matrix read in blocks of rows is compressed as well as one that is held whole, and held nowhere whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matrices import randn
from torch import Tensor

from clisonix.errors import ClisonixError
from clisonix.liam import BinaryAlgebra, svd_compress

K = 6


def spectrum(m: int, n: int, fall: float) -> Tensor:
    u, v = torch.linalg.qr(randn(m, n, seed=1)).Q, torch.linalg.qr(randn(n, n, seed=2)).Q
    return ((u * torch.exp(-fall * torch.arange(n))) @ v).float()


def best(a: Tensor) -> float:
    return float(torch.linalg.svdvals(a.double())[K:].norm())


def error(a: Tensor, found: Tensor) -> float:
    return float((a - found.detach()).double().norm())


MATRICES = {
    "gaussian": lambda: randn(300, 80, dtype=torch.float32),
    "falling": lambda: spectrum(300, 80, 0.1),
    "wide": lambda: spectrum(300, 80, 0.1).mT.contiguous(),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_memory_map_is_compressed_as_well_as_a_tensor(name: str, tmp_path: Path) -> None:
    a = MATRICES[name]()
    a.numpy().tofile(tmp_path / "a.f32")
    mapped = np.memmap(tmp_path / "a.f32", np.float32, "r", shape=tuple(a.shape))
    found = svd_compress(mapped, k=K)
    assert found.shape == tuple(a.shape)
    assert found.rank == K
    assert error(a, found.dense()) <= 1.01 * best(a)
    assert (np.fromfile(tmp_path / "a.f32", np.float32) == a.numpy().ravel()).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_of_an_array_in_memory_does_not_matter(order: str) -> None:
    a = MATRICES["falling"]()
    array = np.array(a.numpy(), order=order)  # type: ignore[call-overload]
    assert error(a, svd_compress(array, k=K).dense()) <= 1.01 * best(a)


@pytest.mark.parametrize("name", MATRICES)
def test_blocks_that_can_be_read_again_give_the_best_error(name: str) -> None:
    a = MATRICES[name]()
    found = svd_compress(lambda: iter(a.split(37)), k=K)
    assert error(a, found.dense()) <= 1.01 * best(a)
    assert error(a, svd_compress(list(a.split(37)), k=K).dense()) <= 1.01 * best(a)


def test_an_iterator_is_read_once_and_uneven_and_empty_blocks_are_fine() -> None:
    a = MATRICES["falling"]()
    given = []

    def blocks() -> Iterator[Tensor]:
        for piece in a.split([1, 0, 120, 50, 129]):
            given.append(len(piece))
            yield piece

    found = svd_compress(blocks(), k=K)
    assert given == [1, 0, 120, 50, 129]
    assert error(a, found.dense()) <= 1.05 * best(a)


def test_a_tolerance_is_met_from_a_stream() -> None:
    a = MATRICES["falling"]()
    found = svd_compress(lambda: iter(a.split(64)), tol=0.1)
    assert error(a, found.dense()) <= 0.1 * float(a.double().norm()) * (1 + 1e-4)
    assert found.rank < 40


def test_equal_streams_give_equal_results_and_the_front_door_takes_them() -> None:
    a = MATRICES["gaussian"]()
    first, second = (BinaryAlgebra().svd_compress(lambda: iter(a.split(50)), k=K) for _ in range(2))
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.right, second.right)


def test_no_more_than_a_few_rows_are_held_at_once() -> None:
    held, most = 0, 0

    class Block(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def blocks() -> Iterator[np.ndarray]:  # type: ignore[type-arg]
        nonlocal held, most
        for seed in range(40):
            block = np.random.default_rng(seed).standard_normal((16, 24)).astype(np.float32).view(Block)
            held += 1
            most = max(most, held)
            yield block
            del block

    svd_compress(blocks(), k=3)
    assert most <= 4


def test_a_damaged_stream_is_refused_and_the_block_is_named() -> None:
    a = MATRICES["gaussian"]()
    bad = a.clone()
    bad[130, 3] = float("nan")
    narrow = [a[:10], a[10:20, :7]]
    for expected, source in {
        "NaN or infinite": lambda: iter(bad.split(50)),
        "80": lambda: iter(narrow),
        "no row|nothing|no block": lambda: iter([]),
    }.items():
        with pytest.raises(ClisonixError, match=expected):
            svd_compress(source, k=K)
        with pytest.raises(ClisonixError, match=expected):
            svd_compress(source(), k=K)
