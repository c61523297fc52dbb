"""Tiled planes give what planes by row give, bit for bit, by every instruction set and method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clisonix.kernels import cpu
from clisonix.kernels.integer import pack_codes
from clisonix.kernels.planes import Layout, packed_matmul, packed_matmul_t
from clisonix.kernels.planes_reference import by_row, row_count, tile

LIBRARY = cpu.load("packed")
ISAS = ["portable", "avx2", "avx512"][
    : 1 if LIBRARY.missing else 1 + ["portable", "avx2", "avx512"].index(torch.ops.clisonix.cpu_isa())
]
WAYS = [
    (isa, method)
    for isa in ISAS
    for method in ("automatic", "unpack", "tables", "library")
    if (isa, method) != ("portable", "tables")
]
SHAPES = [(32, 5), (64, 128), (96, 1000), (160, 129), (288, 513), (2080, 1024)]


def planes_of(m: int, n: int, bits: int) -> Tensor:
    generator = torch.Generator().manual_seed(m + n)
    return pack_codes(torch.randint(0, 2**bits, (m, n), generator=generator, dtype=torch.uint8), bits)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_tiles_hold_every_row_once(bits: int) -> None:
    planes = planes_of(96, 100, bits)
    tiles = tile(planes)
    assert tiles.is_contiguous()
    assert row_count(tiles) == row_count(planes) == 96
    assert torch.equal(by_row(tiles), planes)
    assert by_row(planes) is planes
    assert torch.equal(tiles[0, 1, :, 5], planes[0, 37])  # row 37 is row 5 of the second tile


@pytest.mark.skipif(LIBRARY.missing is not None, reason=f"no C++ kernels: {LIBRARY.missing}")
@pytest.mark.parametrize(("isa", "method"), WAYS)
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(("bits", "whole"), [(1, True), (2, True), (4, False), (5, True), (8, False)])
def test_products_are_bitwise_those_by_row(isa: str, method: str, adjoint: bool, bits: int, whole: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    for m, n in SHAPES:
        planes, group = planes_of(m, n, bits), n if whole else 16
        layout = Layout(n, group, 2 if bits == 1 else 1, 1)
        scales = torch.randn(m, -(-n // group), generator=generator)
        for batch in (1, 5):
            x = torch.randn(batch, m if adjoint else n, generator=generator)
            rows, tiles = (
                torch.ops.clisonix.cpu_matmul(x, scales, p, *layout, adjoint, isa, method)
                for p in (planes, tile(planes))
            )
            assert torch.equal(rows, tiles)


@pytest.mark.skipif(LIBRARY.missing is not None, reason=f"no C++ kernels: {LIBRARY.missing}")
def test_tiles_that_begin_in_the_middle_of_a_vector() -> None:
    planes, x, scales, layout = planes_of(64, 256, 1), torch.randn(1, 256), torch.rand(64, 1), Layout(256, 256, 2, 1)
    memory = torch.empty(planes.numel() + 1, dtype=torch.uint8)
    tiles = memory[1:].view(1, 2, 32, 32).copy_(tile(planes))
    assert torch.equal(packed_matmul(x, scales, tiles, layout), packed_matmul(x, scales, planes, layout))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_derivatives_are_those_by_row(backend: str) -> None:
    planes, layout = planes_of(64, 100, 4), Layout(100, 32, 1, 8)
    found = []
    for p in (planes, tile(planes)):
        torch.manual_seed(0)
        x, y = torch.randn(3, 100, requires_grad=True), torch.randn(3, 64, requires_grad=True)
        scales = torch.randn(64, 4, requires_grad=True)
        out = packed_matmul(x, scales, p, layout, backend)  # type: ignore[arg-type]
        back = packed_matmul_t(y, scales, p, layout, backend)  # type: ignore[arg-type]
        found.append(torch.autograd.grad((out.square().sum() + back.square().sum()), (x, y, scales)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(LIBRARY.missing is not None, reason=f"no C++ kernels: {LIBRARY.missing}")
@pytest.mark.parametrize("shape", [(1, 2, 16, 31), (1, 2, 15, 32), (9, 2, 16, 32), (1, 1, 2, 16, 32)])
def test_tiles_of_a_wrong_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="do not hold 128 columns"):
        packed_matmul(
            torch.randn(1, 128), torch.rand(64, 1), torch.zeros(shape, dtype=torch.uint8), Layout(128, 128, 2, 1)
        )
