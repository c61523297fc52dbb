"""A matrix that only reorders."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix, check_input


class Permutation(Matrix):
    """One 1 in each row and column, kept as the vector of their places: `(P @ x)[i] = x[index[i]]`.

    It holds no floating-point entries to save, so it is told the dtype it belongs to; `.to(dtype)` changes
    that like any other.

    >>> import torch
    >>> from clisonix.liam import Permutation
    >>> p = Permutation(torch.tensor([2, 0, 1]))
    >>> (p @ torch.tensor([10.0, 20.0, 30.0])).tolist()
    [30.0, 10.0, 20.0]
    >>> (p.T @ (p @ torch.tensor([10.0, 20.0, 30.0]))).tolist()
    [10.0, 20.0, 30.0]

    Args:
        index: `(n,)`, int32 or int64: every number from 0 to `n - 1` once.
        dtype: of the matrix; the default one of torch when left out.
    """

    index: Tensor
    like: Tensor

    def __init__(self, index: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_buffer("index", index.detach().contiguous())
        # Empty: `.to(dtype)` and `.to(device)` reach it, and a file does not need it.
        like = torch.empty(0, dtype=dtype or torch.get_default_dtype(), device=index.device)
        if not like.is_floating_point():
            raise ClisonixError(f"dtype={dtype} is no floating-point type; a permutation needs that of its operands.")
        self.register_buffer("like", like, persistent=False)
        _check_index(self)
        # Products trust the index, so a damaged file must not get past loading.
        self.register_load_state_dict_post_hook(_check_index)  # type: ignore[no-untyped-call]

    @property
    def shape(self) -> tuple[int, int]:
        n = self.index.shape[0]
        return n, n

    def forward(self, x: Tensor) -> Tensor:
        index = self.index
        return check_input(x, -1, self, index.shape[0], self.like).index_select(-1, index)

    def adjoint(self, x: Tensor) -> Tensor:
        index = self.index
        check_input(x, -1, self, index.shape[0], self.like)
        return torch.zeros_like(x).index_copy_(-1, index.long(), x)

    def matmul(self, x: Tensor) -> Tensor:
        index = self.index
        return check_input(x, -2, self, index.shape[0], self.like).index_select(-2, index)

    def dense(self) -> Tensor:
        n = self.index.shape[0]
        return torch.eye(n, dtype=self.dtype, device=self.index.device).index_select(0, self.index)

    def inverse(self) -> Permutation:
        """The permutation that undoes this one: its transpose, as an index of its own."""
        index = self.index
        places = torch.arange(index.shape[0], dtype=index.dtype, device=index.device)
        return Permutation(torch.empty_like(index).index_copy_(0, index.long(), places), self.dtype)

    def _first_float(self) -> Tensor:
        return self.like


def _check_index(module: nn.Module, _incompatible: object = None) -> None:
    """Raise unless `index` names every place once."""
    index = cast(Permutation, module).index
    if index.ndim != 1 or index.dtype not in (torch.int32, torch.int64):
        raise ClisonixError(
            f"index is {index.dtype} of shape {tuple(index.shape)}; give int32 or int64 of shape (n,)."
        )
    if index.is_meta:
        return
    n = index.shape[0]
    if not torch.equal(index.sort().values, torch.arange(n, dtype=index.dtype, device=index.device)):
        raise ClisonixError(f"index is no permutation: {n} places need every number from 0 to {n - 1} once.")
