"""Checks of the Triton kernels for bit-packed matrices, run with TRITON_INTERPRET=1 by test_triton_kernels.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from guard import SIDES, assert_close, backwards, guarded, guarded_outputs
from torch import Tensor

from clisonix.kernels import gpu, planes
from clisonix.kernels import planes_launch_triton as launch
from clisonix.kernels.planes import Layout
from clisonix.kernels.planes_reference import pack_bits, unpack_codes
from clisonix.kernels.planes_triton import Packed, Tile

Product = Callable[..., Tensor]
TILE = Tile(16, 16, 4, 1)
TYPES = (torch.float32, torch.float16)
# Of `torch.library.opcheck`; its fourth, that a compiled call gives the same, is what `compare` checks.
TESTS = ("test_schema", "test_autograd_registration", "test_faketensor")
# batch, m, n, bits, group, splits: blocks that are not full on any side, one vector and several, all ways of scaling.
SHAPES = [
    (1, 33, 130, 1, 130, 1),
    (1, 20, 77, 3, 24, 2),
    (5, 33, 130, 1, 130, 2),
    (17, 40, 130, 2, 130, 1),
    (3, 19, 70, 4, 16, 1),
    (3, 9, 30, 8, 5, 3),
    (2, 7, 33, 5, 33, 1),
    (1, 1, 1, 1, 1, 1),
    (40, 5, 9, 6, 9, 1),
]


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def matrix(m: int, n: int, bits: int, group: int, dtype: torch.dtype, side: str) -> tuple[Packed, Tensor]:
    """A packed matrix in guarded memory, and its entries."""
    codes = torch.randint(0, 2**bits, (m, n), generator=torch.Generator().manual_seed(m + n), dtype=torch.uint8)
    packed = torch.stack([pack_bits((codes >> plane) & 1) for plane in range(bits)])
    scales = randn(m, -(-n // group), dtype=dtype)
    step, offset = (2, 1) if bits == 1 else (1, 2 ** (bits - 1))
    entries = (codes.double() * step - offset) * scales.double().repeat_interleave(group, 1)[:, :n]
    return Packed(guarded(packed, side), guarded(scales, side), n, group, step, offset), entries


def check_products(shape: tuple[int, ...], dtype: torch.dtype, side: str) -> None:
    batch, m, n, bits, group, splits = shape
    weight, entries = matrix(m, n, bits, group, dtype, side)
    x, y = guarded(randn(batch, n, dtype=dtype), side), guarded(randn(batch, m, dtype=dtype), side)
    inner, left = guarded(randn(2, batch, 35), side), guarded(randn(m, 35, dtype=dtype), side)
    with guarded_outputs(side):
        plain = launch.matmul(x, weight, tile=TILE, splits=splits)
        fused = launch.matmul(x, weight, inner=inner, left=left, tile=TILE, splits=splits)
        back = launch.matmul_t(y, weight, tile=TILE, splits=splits)
        sums = launch.scale_sums(y, x, weight, tile=TILE)
    expected = x.double() @ entries.T
    assert_close(f"x @ W.T {shape}", plain, expected, dtype)
    low = inner.double().sum(0).to(dtype).double() @ left.double().T
    assert_close(f"x @ W.T + low rank {shape}", fused, expected + low, dtype)
    assert_close(f"x @ W {shape}", back, y.double() @ entries, dtype)
    levels = unpack_codes(weight.planes, n).double() * weight.step - weight.offset
    terms = (y.double().T @ x.double()) * levels
    groups = torch.stack([terms[:, first : first + group].sum(1) for first in range(0, n, group)], 1)
    assert_close(f"scale sums {shape}", sums, groups, dtype)


def check_chain(batch: int, m: int, r: int, n: int, splits: int, dtype: torch.dtype, side: str) -> None:
    s1, s2 = randn(m, r) >= 0, randn(r, n, seed=1) >= 0
    x, a, b, c = (guarded(randn(*s, dtype=dtype), side) for s in ((batch, n), (m,), (r,), (n,)))
    packed1, packed2 = guarded(pack_bits(s1), side), guarded(pack_bits(s2), side)
    with guarded_outputs(side):
        ours = launch.double_binary(x, a, packed1, b, packed2, c, tile=TILE, splits=splits)
    # As the kernel does, what enters a product is rounded to the type of the data.
    scaled = (x.float() * c.float()).to(dtype) if batch > 1 else x.float() * c.float()
    middle = scaled.double() @ (2.0 * s2.double() - 1).T * b.double()
    middle = middle.to(dtype).double() if batch > 1 else middle
    assert_close(f"chain {(batch, m, r, n)}", ours, middle @ (2.0 * s1.double() - 1).T * a.double(), dtype)


def check_order() -> None:
    weight, _ = matrix(20, 70, 2, 40, torch.float32, "end")
    x, y = randn(5, 70), randn(5, 20)
    chain = (randn(20), pack_bits(randn(20, 18) >= 0), randn(18), pack_bits(randn(18, 70) >= 0), randn(70))

    def results() -> list[Tensor]:
        return [
            launch.matmul(x, weight, tile=TILE, splits=2),
            launch.matmul_t(y, weight, tile=TILE, splits=2),
            launch.double_binary(x, *chain, tile=TILE, splits=2),
        ]

    forwards = results()
    with backwards():
        for ours, theirs in zip(results(), forwards, strict=True):
            assert torch.equal(ours, theirs), "the order of the programs changed a result"


def check_operators() -> None:
    """Gradients, fakes, schemas and graphs, against the plain-torch operators of the same products."""
    layout = Layout(n=21, group=8, step=1, offset=2)
    packed = torch.stack([pack_bits(randn(6, 21, seed=s) >= 0) for s in (0, 1)])
    x, y, scales = randn(2, 3, 21), randn(2, 3, 6), randn(6, 3)
    ours = gpu.operators("triton", x)
    for op, arguments in (
        (ours.matmul, (x, scales)),
        (ours.matmul_t, (y, scales)),
        (ours.scale_sums, (y, x)),
    ):
        inputs = [t.clone().requires_grad_() for t in arguments]
        torch.library.opcheck(op, (*inputs, packed, *layout), test_utils=TESTS)
    compare(
        lambda x, scales: ours.matmul(x, scales, packed, *layout),
        lambda x, scales: planes.packed_matmul(x, scales, packed, layout, "reference"),
        [x, scales],
    )
    signs = Layout(n=21, group=21, step=2, offset=1)
    right, left = randn(4, 21), randn(6, 4)
    compare(
        lambda x, s, v, u: gpu.packed_lowrank_matmul(x, s, packed[0], signs, v, u, backend="triton"),
        lambda x, s, v, u: gpu.packed_lowrank_matmul(x, s, packed[0], signs, v, u),
        [x, scales[:, 0], right, left],
    )
    inputs = [t.clone().requires_grad_() for t in (x, scales[:, 0])]
    factors = [t.clone().requires_grad_() for t in (right, left)]
    lowrank = torch.ops.clisonix.packed_lowrank_matmul_triton
    torch.library.opcheck(lowrank, (*inputs, packed[0], *factors, *signs), test_utils=TESTS)
    s1, s2 = pack_bits(randn(7, 6) >= 0), pack_bits(randn(6, 21) >= 0)
    compare(
        lambda x, a, b, c: gpu.double_binary(x, a, s1, b, s2, c, backend="triton"),
        lambda x, a, b, c: gpu.double_binary(x, a, s1, b, s2, c),
        [x, randn(7), randn(6), randn(21)],
    )
    x, a, b, c = (t.clone().requires_grad_() for t in (x, randn(7), randn(6), randn(21)))
    torch.library.opcheck(torch.ops.clisonix.double_binary_triton, (x, a, s1, b, s2, c), test_utils=TESTS)


def compare(ours: Product, theirs: Product, operands: list[Tensor]) -> None:
    """Results, gradients and, through one of them, second gradients of two functions, one of them also compiled."""

    def outcome(function: Product, twice: bool) -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in operands]
        y = function(*inputs)
        grads = torch.autograd.grad((y * randn(*y.shape, seed=5)).sum(), inputs, create_graph=twice)
        return [y, *grads, *(torch.autograd.grad(grads[0].square().sum(), inputs[1]) if twice else ())]

    expected = outcome(theirs, True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for results in (outcome(ours, True), outcome(compiled, False)):
        for left, right in zip(results, expected, strict=False):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def main() -> None:
    count = 0
    # Every shape in one of the two types, against one of the two guards.
    for i, shape in enumerate(SHAPES):
        check_products(shape, TYPES[i % 2], SIDES[i // 2 % 2])
        count += 1
    for i, sizes in enumerate(((1, 33, 20, 70, 2), (3, 20, 67, 34, 1), (17, 8, 9, 10, 1))):
        check_chain(*sizes, dtype=TYPES[i % 2], side=SIDES[i % 2])
        count += 1
    for check in (check_order, check_operators):
        check()
        count += 1
    print("checked", count)


if __name__ == "__main__":
    main()
