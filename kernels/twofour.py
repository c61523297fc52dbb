"""Where a matrix that keeps two of each four entries of a row keeps them, and its products in plain torch.

A row of `n` columns keeps `2 * (n // 4) + min(2, n % 4)` values: two of every four columns in a row, and up to two of
those left over. Where each is among its four takes 2 bits, packed four to a byte: bits `2 * (p % 4)` and up of byte
`p // 4` are the place of the `p`-th.

GPUs from Ampere on have units for this pattern in half precision, which torch reaches through
`torch.sparse.to_sparse_semi_structured` in a layout of its own. They would be one more way in
`clisonix.kernels.sparse_backends`; nobody has run them with this format yet, so none is there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clisonix.kernels import sparse_torch

# Kept entries whose columns are listed at a time: 4 MB of int32.
LISTED_ENTRIES = 1 << 20


def kept_columns(n: int) -> int:
    """How many of `n` columns a row keeps."""
    return n // 4 * 2 + min(n % 4, 2)


def pack_places(places: Tensor) -> Tensor:
    """Pack places 0 to 3, uint8 `(m, kept)`, four to a byte: uint8 `(m, ceil(kept / 4))`."""
    m, kept = places.shape
    whole = torch.nn.functional.pad(places, (0, -kept % 4)).view(m, -(-kept // 4), 4)
    return (whole << _shifts(places)).sum(-1, dtype=torch.uint8)


def columns_of(places: Tensor, n: int) -> Tensor:
    """The column of each kept entry, int32 `(m, kept)`, from places as packed."""
    kept = kept_columns(n)
    within = ((places[..., None] >> _shifts(places)) & 3).flatten(1)[:, :kept]
    return within + torch.arange(kept, device=places.device, dtype=torch.int32) // 2 * 4


def multiply(x: Tensor, values: Tensor, places: Tensor, n: int, turned: bool) -> Tensor:
    """`(k, n)` to `(k, m)`, or turned `(n, k)` to `(m, k)`, listing the columns of some rows at a time."""
    m = values.shape[0]
    out = x.new_empty((m, x.shape[1]) if turned else (x.shape[0], m))
    for part, crow, col in _listed(places, m, n):
        product = sparse_torch.multiply(x, values[part].flatten(), crow, col, crow.shape[0] - 1, n, turned)
        if turned:
            out[part] = product
        else:
            out[:, part] = product
    return out


def multiply_t(x: Tensor, values: Tensor, places: Tensor, n: int, turned: bool) -> Tensor:
    """`(k, m)` to `(k, n)`, or turned `(m, k)` to `(n, k)`."""
    m, wide = values.shape[0], torch.promote_types(x.dtype, torch.float32)
    out = x.new_zeros((n, x.shape[1]) if turned else (x.shape[0], n), dtype=wide)
    for part, crow, col in _listed(places, m, n):
        entries = (x[part] if turned else x[:, part]).to(wide)
        out += sparse_torch.multiply_t(entries, values[part].flatten(), crow, col, crow.shape[0] - 1, n, turned)
    return out.to(x.dtype)


def sample(left: Tensor, right: Tensor, places: Tensor, turned: bool) -> Tensor:
    """The entries of `left.T @ right` (turned: `left @ right.T`) at the places, in float32 or wider."""
    m, n = (left.shape[0], right.shape[0]) if turned else (left.shape[1], right.shape[1])
    out = left.new_empty(m, kept_columns(n), dtype=torch.promote_types(left.dtype, torch.float32))
    for part, crow, col in _listed(places, m, n):
        entries = left[part] if turned else left[:, part]
        out[part] = sparse_torch.sample(entries, right, crow, col, [col.shape[0]], turned).view_as(out[part])
    return out


def _listed(places: Tensor, m: int, n: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some rows at a time as compressed rows."""
    kept = kept_columns(n)
    step = max(1, LISTED_ENTRIES // max(kept, 1))
    for start in range(0, m, step):
        part = slice(start, min(start + step, m))
        crow = torch.arange(part.stop - start + 1, device=places.device, dtype=torch.int32) * kept
        yield part, crow, columns_of(places[part], n).flatten()


def _shifts(places: Tensor) -> Tensor:
    return torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=places.device)
