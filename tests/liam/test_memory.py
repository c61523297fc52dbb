"""What lies between the factors of a large product stays small."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrices import batch, dense, diagonal, lowrank, permutation
from torch.utils._python_dispatch import TorchDispatchMode

from clisonix.liam import BlockDiagonal, Cat, Dense, Matrix, Product, Scaled, Sum, rowblocks

F32 = torch.float32
ROWS, N = 6000, 192


class Peak(TorchDispatchMode):
    """The most bytes alive at once in tensors that operations have made, as seen after each of them."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.alive = self.most = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            size = storage.nbytes()
            self.alive += size
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self.remove, key, size)

    def remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


def extra_bytes(a: Matrix, x: torch.Tensor) -> int:
    """Bytes that `a(x)` needs at once beside `a`, `x` and the output."""
    with Peak([x, *a.parameters(), *a.buffers()]) as mode:
        output = a(x)
    return mode.most - output.nbytes


LARGE: dict[str, Callable[[], Matrix]] = {
    "sum": lambda: Sum(dense(N, N, F32), lowrank(N, N, F32), diagonal(N, F32), dense(N, N, F32)),
    "difference": lambda: dense(N, N, F32) - lowrank(N, N, F32),
    "product": lambda: Product(dense(N, N, F32), diagonal(N, F32), dense(N, N, F32), permutation(N, F32)),
    "wide middle": lambda: Product(dense(N, 3 * N, F32), diagonal(3 * N, F32), dense(3 * N, N, F32)),
    "scaled": lambda: Scaled(dense(N, N, F32), 2.0),
    "stacked": lambda: Cat(dense(N, N, F32), lowrank(N, N, F32), dim=0),
    "side by side": lambda: Cat(dense(N, N, F32), diagonal(N, F32), dim=1),
    "blocks": lambda: BlockDiagonal(dense(N, N, F32), diagonal(N, F32)),
    "batch": lambda: batch(N, N // 3, F32),
    "slice": lambda: (diagonal(N, F32) + dense(N, N, F32))[::2, 1:],
    "nested": lambda: 2 * (dense(N, N, F32) @ (diagonal(N, F32) + lowrank(N, N, F32))).T,
}
large = pytest.mark.parametrize("make", LARGE.values(), ids=LARGE.keys())


@large
@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_batch_takes_little_more_than_weights_input_and_output(
    make: Callable[[], Matrix], transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is spared for speed alone is a fixed number of bytes: make it small beside this small example.
    monkeypatch.setitem(rowblocks.FREE_BYTES, "cpu", 1 << 17)
    a = make().requires_grad_(False)
    a = a.T if transposed else a
    m, n = a.shape
    x = torch.randn(ROWS, n)
    with torch.no_grad():
        whole = a(x[:100])
        extra = extra_bytes(a, x)
    given = a.nbytes + 4 * ROWS * (m + n)
    assert extra <= 0.1 * given
    torch.testing.assert_close(a(x)[:100], whole, rtol=1e-4, atol=1e-3)


@large
def test_dividing_the_batch_changes_no_value_in_any_layout(make: Callable[[], Matrix]) -> None:
    a = make()
    m, n = a.shape
    x = torch.randn(40, n, 60)
    with torch.no_grad():
        expected = torch.stack([a(row.T) for row in x])
        for given in (x.mT, x.mT.contiguous(), x.mT.contiguous().view(8, 5, 60, n)):
            torch.testing.assert_close(a(given).reshape(40, 60, m), expected, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a @ x, expected.mT, rtol=1e-4, atol=1e-3)
        y = torch.randn(ROWS, m)
        torch.testing.assert_close((y @ a)[:50], y[:50] @ a, rtol=1e-4, atol=1e-3)
    # With gradients on nothing is divided, and the values are the same.
    torch.testing.assert_close(a(x.mT), expected, rtol=1e-4, atol=1e-3)


def test_vmap_and_autocast_pass_through_a_divided_batch() -> None:
    a, x = Sum(Dense(torch.randn(N, N)), lowrank(N, N, F32)), torch.randn(3, 2000, N)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(a)(x), a(x), rtol=1e-4, atol=1e-3)

        def by_weight(weight: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(a, {"terms.0.weight": weight}, (x[0],))

        weights = torch.randn(2, N, N)
        expected = torch.stack([by_weight(w) for w in weights])
        torch.testing.assert_close(torch.func.vmap(by_weight)(weights), expected, rtol=1e-4, atol=1e-3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert a(x).dtype == torch.bfloat16
