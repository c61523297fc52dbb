"""A matrix that keeps two of each four entries of a row, as sparse units of GPUs want it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.kernels.sparse import sparse_matmul, sparse_matmul_t
from clisonix.kernels.twofour import columns_of, kept_columns, pack_places
from clisonix.liam.association import work
from clisonix.liam.matrix import Matrix, as_parameter, check_input
from clisonix.liam.scores import most_important


class SemiSparse(Matrix):
    """Two of every four columns in each row, with 2 bits for the place of each. The values learn; places are fixed.

    Of columns left over behind the last four, up to two are kept: `2 * (n // 4) + min(2, n % 4)` values in a row. In
    half precision this is 9 bits for each entry of the dense matrix, in float32 17.
    The attribute `backend` pins what computes its products, as for `Sparse`.

    Args:
        values: `(m, kept)`. A plain tensor becomes a parameter (detached); a parameter is shared.
        places: uint8 `(m, ceil(kept / 4))`, as from `clisonix.kernels.twofour.pack_places`; rising in each group.
        columns: `n`.
    """

    places: Tensor
    backend: str = ""

    def __init__(self, values: Tensor, places: Tensor, columns: int) -> None:
        super().__init__()
        self.values = as_parameter(values, "values", 2)
        self.register_buffer("places", places.contiguous())
        self.columns = columns
        _check(self)
        # Products trust the places, so a damaged file must not get past loading.
        self.register_load_state_dict_post_hook(_check)  # type: ignore[no-untyped-call]

    @classmethod
    @torch.no_grad()
    def nearest(cls, weight: Tensor, moments: Tensor | None = None) -> SemiSparse:
        """The two entries of each four that matter most, detached from `weight`: the closest matrix of this form.

        Args:
            weight: `(m, n)`, finite floating point.
            moments: second moments of the inputs, `(n,)` or `(n, n)`; see `clisonix.liam.scores`.
        """
        score, (m, n) = most_important(weight, moments), weight.shape
        kept = kept_columns(n)
        # What fills up the last four is less than any entry, so it is kept only where a row has a single one left.
        filled = torch.nn.functional.pad(score, (0, -n % 4), value=-1.0).view(m, -(-n // 4), 4)
        places = filled.topk(2, dim=-1).indices.sort(dim=-1).values.flatten(1)[:, :kept]
        columns = places + torch.arange(kept, device=weight.device) // 2 * 4
        return cls(weight.gather(1, columns), pack_places(places.to(torch.uint8)), n)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.columns

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.columns, self.values)
        return sparse_matmul(x, self.values, self.places, self.places, self.shape, self.backend)

    def adjoint(self, x: Tensor) -> Tensor:
        check_input(x, -1, self, self.values.shape[0], self.values)
        return sparse_matmul_t(x, self.values, self.places, self.places, self.shape, self.backend)

    def dense(self) -> Tensor:
        columns = columns_of(self.places, self.columns).long()
        return self.values.new_zeros(self.shape).scatter(1, columns, self.values)


@work.register
def _(matrix: SemiSparse) -> int:
    return matrix.values.numel()


def _check(module: nn.Module, _incompatible: object = None) -> None:
    """Raise unless the places are of the right size and two different ones in each group."""
    matrix = cast(SemiSparse, module)
    (m, kept), n, places = matrix.values.shape, matrix.columns, matrix.places
    if kept != kept_columns(n) or places.dtype != torch.uint8 or places.shape != (m, -(-kept // 4)):
        raise ClisonixError(
            f"values is {tuple(matrix.values.shape)} and places is {places.dtype} {tuple(places.shape)}; {m} rows of "
            f"{n} columns keep values ({m}, {kept_columns(n)}) at torch.uint8 ({m}, {-(-kept_columns(n) // 4)})."
        )
    if places.is_meta or 0 in (m, kept):
        return
    columns = columns_of(places, n)
    rising = bool((columns[:, 1::2] > columns[:, : kept // 2 * 2 : 2]).all())
    if not rising or int(columns[:, -1].max()) >= n:
        raise ClisonixError(
            f"The places of each two kept entries must rise and lie within {n} columns, but they do not; the matrix "
            "was built from, or loaded from, damaged data."
        )
