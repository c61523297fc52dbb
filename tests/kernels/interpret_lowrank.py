"""Checks of the Triton low-rank kernel, run with TRITON_INTERPRET=1 by test_lowrank_kernel.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clisonix.kernels.lowrank import lowrank_matmul
from clisonix.kernels.lowrank_triton import launch

GUARD = 4096


def guarded(*shape: int, dtype: torch.dtype, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A tensor in the middle of a page of NaN, and the page: a read outside poisons the result."""
    size = math.prod(shape)
    page = torch.full((2 * GUARD + size,), float("nan"), dtype=dtype)
    view = page[GUARD : GUARD + size].view(shape)
    if fill is not None:
        view.copy_(fill)
    return view, page


def check_bounds(batch: int, n: int, m: int, r: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(batch + n + m + r)
    values = [torch.randn(*s, generator=generator).to(dtype) for s in ((batch, n), (r, n), (m, r))]
    (x, _), (right, _), (left, _) = (guarded(*v.shape, dtype=dtype, fill=v) for v in values)
    out, page = guarded(batch, m, dtype=dtype)
    launch(x, right, left, out)
    wide = [v.double() for v in values]
    # The kernel rounds the inner product to the type of the data, as two plain products do.
    expected = (wide[0] @ wide[1].mT).to(dtype).double() @ wide[2].mT
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=max(64 * eps * scale, 1e-7))
    assert page[:GUARD].isnan().all(), "wrote before the output"
    assert page[GUARD + out.numel() :].isnan().all(), "wrote after the output"


def check_gradients() -> None:
    operands = [torch.randn(*s).requires_grad_() for s in ((2, 5, 21), (6, 21), (13, 6))]
    weights = torch.randn(2, 5, 13)
    results = []
    for backend in ("triton", "reference"):
        y = lowrank_matmul(*operands, backend=backend)  # type: ignore[arg-type]
        results.append([y, *torch.autograd.grad((y * weights).sum(), operands)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def check_compiled() -> None:
    operands = [torch.randn(*s).requires_grad_() for s in ((4, 21), (6, 21), (13, 6))]
    compiled = torch.compile(
        lambda *args: lowrank_matmul(*args, backend="triton"), fullgraph=True, backend="aot_eager"
    )
    y = compiled(*operands)
    torch.testing.assert_close(y, lowrank_matmul(*operands), rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert all(o.grad is not None for o in operands)


def check_strided() -> None:
    x, right, left = torch.randn(21, 8).T[::2], torch.randn(21, 6).T, torch.randn(6, 13).T
    fused = lowrank_matmul(x, right, left, backend="triton")
    torch.testing.assert_close(fused, lowrank_matmul(x, right, left), rtol=1e-4, atol=1e-4)
    empty = lowrank_matmul(x[:0], right, left, backend="triton")
    assert empty.shape == (0, 13)


def main() -> None:
    shapes = [
        (1, 1, 1, 1),
        (1, 64, 64, 16),
        (33, 65, 67, 5),
        (32, 64, 64, 16),
        (31, 63, 61, 17),
        (7, 130, 3, 33),
        (65, 3, 130, 64),
        (3, 70, 70, 256),
        (2, 5, 5, 200),
    ]
    count = 0
    for dtype in (torch.float32, torch.float16):
        for shape in shapes:
            check_bounds(*shape, dtype=dtype)
            count += 1
    for dtype in (torch.float32,):
        check_bounds(4, 8, 8, 0, dtype=dtype)
        count += 1
    for check in (check_gradients, check_compiled, check_strided):
        check()
        count += 1
    print("checked", count)


if __name__ == "__main__":
    main()
