"""Checks of the Triton kernels for blocks, low rank and stacks, for test_triton_kernels.py."""

from __future__ import annotations

import torch
from guard import SIDES, assert_close, backwards, guarded, guarded_outputs
from torch import Tensor

from clisonix.kernels import bsr_triton, gpu_blocks, lowrank_triton, newton_schulz_triton
from clisonix.kernels.newton_schulz import newton_schulz, orthogonalise
from clisonix.kernels.newton_schulz_triton import SquareTile
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t

TYPES = (torch.float32, torch.float16)


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def places(m: int, n: int, size: int, density: float) -> tuple[Tensor, Tensor]:
    kept = torch.rand(-(-m // size), -(-n // size), generator=torch.Generator().manual_seed(m)) < density
    crow = torch.cat([torch.zeros(1, dtype=torch.long), kept.sum(1).cumsum(0)])
    return crow.int(), kept.nonzero()[:, 1].int()


def check_blocks(size: int, m: int, n: int, batch: int, density: float, dtype: torch.dtype, side: str) -> None:
    crow, col = (guarded(t, side) for t in places(m, n, size, density))
    values = randn(col.shape[0], size, size, dtype=dtype)
    dense = torch.zeros(crow.shape[0] - 1, -(-n // size), size, size, dtype=torch.float64)
    rows = torch.arange(crow.shape[0] - 1).repeat_interleave(crow.diff())
    dense[rows, col.long()] = values.double()
    dense = dense.permute(0, 2, 1, 3).reshape(dense.shape[0] * size, -1)[:m, :n]
    # What reaches over the edge must not count, whatever it is.
    for place in range(col.shape[0]):
        values[place, max(0, m - int(rows[place]) * size) :] = float("nan")
        values[place, :, max(0, n - int(col[place]) * size) :] = float("nan")
    values = guarded(values, side)
    x, y = guarded(randn(batch, n, dtype=dtype), side), guarded(randn(batch, m, dtype=dtype), side)
    by_column = [guarded(t, side) for t in bsr_triton.by_column(crow, col, -(-n // size))]
    with guarded_outputs(side):
        forward = bsr_triton.multiply(x, values, crow, col, None, m)
        back = bsr_triton.multiply(y, values, *by_column, n)
        sample = bsr_triton.sample(y, x, guarded(rows, side), col, size)
    assert_close(f"blocks {size}", forward, x.double() @ dense.T, dtype)
    assert_close(f"blocks {size}, back", back, y.double() @ dense, dtype)
    outer = torch.zeros(dense.shape[0] + size, dense.shape[1] + size, dtype=torch.float64)
    outer[:m, :n] = y.double().T @ x.double()
    wanted = [outer[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in zip(rows, col, strict=True)]
    assert_close(f"blocks {size}, sampled", sample, torch.stack(wanted) if wanted else sample.double(), dtype)


def check_lowrank(batch: int, n: int, m: int, r: int, splits: int, dtype: torch.dtype, side: str) -> None:
    x, right, left = (guarded(randn(*s, dtype=dtype), side) for s in ((batch, n), (r, n), (m, r)))
    with guarded_outputs(side):
        parts = lowrank_triton.inner_parts(x, right, splits=splits)
        out = x.new_empty(batch, m)
        lowrank_triton.launch_outer(parts, left, out)
    assert parts.shape[0] == splits
    inner = (x.double() @ right.double().T).to(dtype).double()
    assert_close(f"low rank {(batch, n, m, r)}", out, inner @ left.double().T, dtype)


def check_symmetric(stack: int, m: int, k: int, dtype: torch.dtype, side: str) -> None:
    tall = guarded(randn(stack, k, m, dtype=dtype), side)
    c = randn(stack, m, m, dtype=dtype)
    c = guarded(c + c.mT, side)
    for x in (tall.mT, guarded(tall.mT.contiguous(), side)):
        out = guarded(torch.full((stack, m, m), float("nan"), dtype=dtype), side)
        newton_schulz_triton.launch(x, c, out, 0.75, -1.5, tile=SquareTile(16, 32, 4, 1))
        square = x.double() @ x.mT.double()
        assert_close(f"symmetric {(stack, m, k)}", out, 0.75 * square - 1.5 * c.double(), dtype)
        newton_schulz_triton.launch(x, None, out, 1.0, 0.0)
        assert_close(f"gram {(stack, m, k)}", out, square, dtype)


def check_order() -> None:
    crow, col = places(40, 40, 16, 0.7)
    values, x = randn(col.shape[0], 16, 16), randn(5, 40)
    turned = bsr_triton.by_column(crow, col, 3)

    def results() -> list[Tensor]:
        square = torch.empty(2, 40, 40)
        newton_schulz_triton.launch(randn(2, 40, 9), None, square, 1.0, 0.0, tile=SquareTile(16, 16, 4, 1))
        out = torch.empty(5, 7)
        lowrank_triton.launch(x, randn(6, 40), randn(7, 6), out)
        return [
            bsr_triton.multiply(x, values, crow, col, None, 40),
            bsr_triton.multiply(x, values, *turned, 40),
            square,
            out,
        ]

    forwards = results()
    with backwards():
        for ours, theirs in zip(results(), forwards, strict=True):
            assert torch.equal(ours, theirs), "the order of the programs changed a result"


def check_operators() -> None:
    m, n, size = 40, 30, 16
    crow, col = places(m, n, size, 0.7)
    where = gpu_blocks.BlockPlaces.of(crow, col, (m, n), size)
    values, x, y = randn(col.shape[0], size, size), randn(2, 3, n), randn(2, 3, m)
    for ours, theirs, operand, op in (
        (gpu_blocks.block_matmul, sparse_matmul, x, torch.ops.clisonix.block_matmul_triton),
        (gpu_blocks.block_matmul_t, sparse_matmul_t, y, torch.ops.clisonix.block_matmul_t_triton),
    ):
        outcomes = []
        for product in (
            lambda x, v, f=ours: f(x, v, where),
            lambda x, v, f=theirs: f(x, v, crow, col, (m, n), "torch"),
            torch.compile(lambda x, v, f=ours: f(x, v, where), fullgraph=True, backend="aot_eager"),
        ):
            inputs = [operand.clone().requires_grad_(), values.clone().requires_grad_()]
            out = product(*inputs)
            grads = torch.autograd.grad((out * randn(*out.shape, seed=1)).sum(), inputs)
            outcomes.append([out, *grads])
        for ours_, theirs_, compiled in zip(*outcomes, strict=True):
            torch.testing.assert_close(ours_, theirs_, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours_, compiled, rtol=1e-4, atol=1e-4)
        inputs = [operand.clone().requires_grad_(), values.clone().requires_grad_()]
        torch.library.opcheck(op, (*inputs, *where), test_utils=("test_schema", "test_faketensor"))
    stack, c = randn(2, 20, 7).requires_grad_(), randn(2, 20, 20).requires_grad_()
    symmetric = torch.ops.clisonix.symmetric_product_triton
    torch.library.opcheck(symmetric, (stack, c, 0.5, -2.0), test_utils=("test_schema", "test_faketensor"))
    ours = gpu_blocks.symmetric_product(stack, c + c.mT, 0.5, -2.0)
    theirs = 0.5 * stack @ stack.mT - 2.0 * (c + c.mT)
    weights = randn(2, 20, 20, seed=3)
    for left, right in zip(
        torch.autograd.grad((ours * (weights + weights.mT)).sum(), (stack, c)),
        torch.autograd.grad((theirs * (weights + weights.mT)).sum(), (stack, c)),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def check_newton_schulz() -> None:
    for shape in ((2, 20, 24), (2, 24, 20), (1, 8, 40)):
        x = randn(*shape)
        torch.testing.assert_close(newton_schulz(x, backend="triton"), newton_schulz(x), rtol=1e-3, atol=1e-4)
    matrices = [randn(9, 5), randn(5, 9, seed=1), randn(6, 6)]
    for ours, theirs in zip(orthogonalise(matrices, backend="triton"), orthogonalise(matrices), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def main() -> None:
    count = 0
    for i, sizes in enumerate(
        ((16, 50, 37, 3, 0.5), (32, 64, 96, 20, 0.4), (64, 130, 70, 1, 0.6), (16, 16, 16, 70, 0.0))
    ):
        check_blocks(*sizes, dtype=TYPES[i % 2], side=SIDES[i // 2])
        count += 1
    lowrank = ((1, 300, 33, 5, 3), (1, 1, 1, 1, 1), (7, 130, 50, 33, 2), (64, 65, 67, 70, 1), (3, 5, 5, 0, 1))
    for i, sizes in enumerate(lowrank):
        check_lowrank(*sizes, dtype=TYPES[i % 2], side=SIDES[i % 2])
        count += 1
    for i, sizes in enumerate(((2, 33, 70), (3, 16, 5), (1, 1, 1))):
        check_symmetric(*sizes, dtype=TYPES[i % 2], side=SIDES[i % 2])
        count += 1
    for check in (check_order, check_operators, check_newton_schulz):
        check()
        count += 1
    print("checked", count)


if __name__ == "__main__":
    main()
