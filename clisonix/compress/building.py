"""A weight as a matrix of a given form, as good as that form gets for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from clisonix.compress.forms import Form
from clisonix.compress.weighing import BLOCK_ENTRIES, Weighing
from clisonix.errors import ClisonixError
from clisonix.liam.binary import Binary
from clisonix.liam.dense import Dense
from clisonix.liam.double_binary import ITERATIONS, fit_double_binary
from clisonix.liam.exact import Spectrum
from clisonix.liam.integer import Integer, Ternary
from clisonix.liam.lowrank import LowRank
from clisonix.liam.matrix import Matrix
from clisonix.liam.metric import Metric
from clisonix.liam.metric_blocks import BlockMetric
from clisonix.liam.packed_lowrank import best_left, best_right, fit_packed_lowrank
from clisonix.liam.rounding import rounded_binary, rounded_integer, rounded_ternary
from clisonix.liam.semistructured import SemiSparse
from clisonix.liam.sparse import Sparse

M = TypeVar("M")
# Kinds that can be made from a weight without training.
BUILT = ("dense", "lowrank", "integer", "ternary", "binary", "double binary", "sparse", "two of four")


@torch.no_grad()
def build(
    form: Form,
    weight: Tensor,
    weighing: Weighing,
    *,
    spectrum: Spectrum | None = None,
    iterations: int = ITERATIONS,
    name: str = "the weight",
) -> Matrix:
    """`weight` in a form, near it in the metric of `weighing`; equal inputs give equal results.

    Args:
        form: any of the kinds in `BUILT`.
        weight: `(m, n)`.
        weighing: of the weight.
        spectrum: from `weighing.decompose(weight)`, where it is at hand.
        iterations: of the search for a double binary matrix.
        name: of the weight, for the error message.

    Raises:
        ClisonixError: a kind that is not made from a weight, or numbers that leave the range of its dtype.
    """
    form.check(name, weighing.shape)
    dtype, metric = form.float_dtype(weight.dtype), weighing.metric
    weight = weight.detach().contiguous()
    match form.kind:
        case "dense":
            made: Matrix = Dense(weight.to(dtype))
        case "lowrank" if not form.parts and form.group is None:
            found = spectrum or weighing.decompose(weight)
            assert form.rank is not None
            if form.bits is None:
                left = best_left(found, form.rank, metric)
                right = best_right(left, weight.to(left.dtype), metric.row_weights)
                made = LowRank(left.to(dtype), right.to(dtype))
            else:
                made = fit_packed_lowrank(weight, form.rank, form.bits, metric, dtype, found)
        case "integer":
            made = _integer(form, weight, metric, dtype)
        case "ternary":
            parts = _by_rows(weight, metric, lambda part, m: rounded_ternary(part, metric=m, dtype=dtype))
            made = Ternary(*_stacked(parts), weight.shape[1])
        case "binary":
            signs = _by_rows(weight, metric, lambda part, m: rounded_binary(part, metric=m, dtype=dtype))
            packed, scales = (torch.cat([getattr(part, name) for part in signs]) for name in ("packed", "scales"))
            made = Binary(packed, scales.detach(), weight.shape[1])
        case "double binary":
            assert form.rank is not None
            # Its search needs all products of inputs, or none.
            whole = Metric(weight, None, metric.outputs) if isinstance(metric, BlockMetric) else metric
            made = fit_double_binary(weight, form.rank, whole, iterations, dtype)
        case "sparse":
            made = _sparse(form, weight.to(dtype), metric)
        case "two of four":
            made = SemiSparse.nearest(weight.to(dtype), None if isinstance(metric, BlockMetric) else metric.inputs)
        case _:
            raise ClisonixError(
                f"{name!r} is planned as {form}, which is not made from a weight; give one of {', '.join(BUILT)}"
            )
    if not all(bool(tensor.isfinite().all()) for tensor in made.state_dict().values() if tensor.is_floating_point()):
        raise ClisonixError(f"{name!r} as {form} overflows {dtype}; convert the model to float32 first")
    return made


def _integer(form: Form, weight: Tensor, metric: Metric, dtype: torch.dtype) -> Integer:
    bits, group = form.bits, form.group
    assert bits is not None
    assert group is not None
    parts = _by_rows(weight, metric, lambda part, m: rounded_integer(part, bits, group, metric=m, dtype=dtype))
    return Integer(*_stacked(parts), weight.shape[1], group)


def _stacked(parts: Sequence[Integer]) -> tuple[Tensor, Tensor]:
    return torch.cat([part.planes for part in parts], 1), torch.cat([part.scales.detach() for part in parts])


def _by_rows(weight: Tensor, metric: Metric, rounded: Callable[[Tensor, Metric], M]) -> list[M]:
    """Some rows after the others, so that what is needed beside a large weight stays small."""
    # Feeding errors back takes long for every block, however small; plain rounding is best done in the cache.
    step = max(1, (BLOCK_ENTRIES // 4 if metric.inputs is None else BLOCK_ENTRIES) // max(weight.shape[1], 1))
    return [rounded(part, metric.for_rows(len(part))) for part in torch.split(weight, step)]


def _sparse(form: Form, weight: Tensor, metric: Metric) -> Sparse:
    assert form.nnz is not None
    wide = weight.to(metric.dtype)
    scores = wide.square() * metric.activity
    kept = (scores * metric.row_weights).flatten().topk(form.nnz).indices
    flat = weight.flatten()
    held = torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view(weight.shape)
    made = Sparse.from_tensor(held)
    if made.values.shape[0] != form.nnz:
        raise ClisonixError(
            f"a sparse form with {form.nnz} values was planned for a weight with {made.values.shape[0]} that are not "
            "zero; plan no more"
        )
    return made
