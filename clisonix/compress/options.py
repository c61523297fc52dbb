"""What a weight could become: every form worth a look, with its bytes and the error it is expected to make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from clisonix.compress.building import build
from clisonix.compress.estimates import (
    Sample,
    between,
    binary_error,
    integer_errors,
    packed_error,
    packed_ranks,
    sample,
    tails,
    ternary_error,
)
from clisonix.compress.forms import KEEP, Form
from clisonix.compress.weighing import Weighing
from clisonix.errors import ClisonixError, nearest
from clisonix.liam.footprint import (
    budget_nbytes,
    double_binary_nbytes,
    largest_rank,
    packed_lowrank_nbytes,
    planes_nbytes,
)

Effort = Literal["fast", "full"]
# What `forms=` may name, and the kinds that are looked at without it.
FAMILIES = ("low rank", "packed low rank", "integer", "ternary", "binary", "double binary", "sparse")
_ALIASES = {"lowrank": "low rank"}
GROUPS = (16, 32, 64, 128)
FACTOR_BITS = (3, 4, 8)
# Rates (bits an entry) at which double binary is tried, and the size of a weight above which it takes too long.
DOUBLE_BINARY_RATES = (0.75, 1.0, 1.5, 2.25)
_LARGE = 1 << 22
# Searches for the curve are shorter than for the matrix that is kept: a tenth of the error more.
_TRIAL_ITERATIONS = 8
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Option:
    """One thing that a weight could become.

    Attributes:
        form: the structure; "keep" leaves the weight as it is.
        nbytes: of its tensors in a file, without the header.
        error: expected cost of the error it makes, in the unit of `Weighing`; 0 for "keep".
        cost: seconds or joules that a pass of the model takes more than with the dense weight (below 0: less); None
            where nothing was timed.
    """

    form: Form
    nbytes: int
    error: float
    cost: float | None = None


def families(forms: str | Iterable[str] | None) -> frozenset[str]:
    """The kinds of options that `forms` names; all without it.

    Raises:
        ClisonixError: an unknown name, or none.
    """
    if forms is None:
        return frozenset(FAMILIES)
    names = [forms] if isinstance(forms, str) else list(forms)
    found = [_ALIASES.get(name, name) if isinstance(name, str) else name for name in names]
    for name in found:
        if name not in FAMILIES:
            raise ClisonixError(f"the form {name!r} is unknown{nearest(str(name), FAMILIES)}")
    if not found:
        raise ClisonixError(f"forms is empty; give some of {', '.join(FAMILIES)}, or leave it out for all")
    return frozenset(found)


@torch.no_grad()
def options(
    name: str,
    weight: Tensor,
    weighing: Weighing,
    *,
    forms: str | Iterable[str] | None = None,
    effort: Effort = "fast",
    bits: float | None = None,
) -> list[Option]:
    """The curve of one weight: what it could become, from few bytes to "keep".

    Low ranks are exact for every rank, from the spectrum of the weighted outputs. Integers are rounded on some
    rows. Low ranks with packed factors are the spectrum's tail and the noise of rounding. Double binary matrices
    are searched for at few rates.

    Args:
        name: of the weight, for the error message.
        weight: `(m, n)`.
        weighing: its metric.
        forms: families to look at: see `FAMILIES`; all by default.
        effort: "full" also measures what "fast" estimates: packed low ranks, and double binary at all rates.
        bits: about what the whole model may take for each entry; far from it, slow searches are left out. None: all.

    Returns:
        In the order of bytes, "keep" last; nothing that weighs as much as "keep".
    """
    wanted, (m, n), itemsize = families(forms), weighing.shape, weight.dtype.itemsize
    if effort not in ("fast", "full"):
        raise ClisonixError(f'effort is {effort!r}; give "fast" or "full"')
    dense = weight.nbytes
    weight = weight.detach()
    weight = weight if weight.is_contiguous() else weight.contiguous()
    found: list[tuple[Form, int, float]] = []
    if wanted & {"low rank", "packed low rank"}:
        tail = tails(weighing.values(weight))
        if "low rank" in wanted:
            found += [(Form("lowrank", rank=r), itemsize * r * (m + n), tail[r]) for r in range(1, min(m, n) + 1)]
        if "packed low rank" in wanted:
            noise = _measured_noise(weight, weighing, tail) if effort == "full" else {}
            for b in FACTOR_BITS:
                found += [
                    (
                        Form("lowrank", rank=r, bits=b),
                        packed_lowrank_nbytes((m, n), r, b, itemsize),
                        tail[r] + noise[b] * (1 - tail[r]) if b in noise else packed_error(tail[r], b),
                    )
                    for r in packed_ranks((m, n), b, itemsize, dense)
                ]
    if wanted & {"integer", "ternary", "binary", "sparse"}:
        rows = sample(weight, weighing)
        found += _few_levels(rows, wanted, (m, n), itemsize)
        if "sparse" in wanted:
            found += _sparse(weight, rows, itemsize)
    if "double binary" in wanted and _worthwhile(weight, effort, bits):
        found += _double_binary(weight, weighing, effort, bits)
    size = weighing.total if bool(weight.any()) else 0.0
    cheaper = sorted(
        (Option(form, nbytes, size * max(error, 0.0)) for form, nbytes, error in found if nbytes < dense),
        key=lambda option: (option.nbytes, option.error),
    )
    return [*cheaper, Option(KEEP, dense, 0.0)]


def frontier(choices: Sequence[Option]) -> list[Option]:
    """Those of `choices` that no other one beats in both bytes and error, in the order of bytes."""
    kept: list[Option] = []
    for option in sorted(choices, key=lambda option: (option.nbytes, option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def corrected(choices: Sequence[Option], form: Form, measured: float) -> list[Option]:
    """`choices` after one of them was built and measured: its own error, and in proportion that of its family."""
    expected = next((option.error for option in choices if option.form == form), None)
    if not expected or form.kind == "keep" or (form.kind == "lowrank" and form.bits is None):
        return [replace(o, error=measured) if o.form == form else o for o in choices]
    ratio = measured / expected
    family = (form.kind, form.bits is None)
    return [replace(o, error=o.error * ratio) if (o.form.kind, o.form.bits is None) == family else o for o in choices]


def _few_levels(
    rows: Sample, wanted: frozenset[str], shape: tuple[int, int], itemsize: int
) -> list[tuple[Form, int, float]]:
    m, n = shape
    found = []
    if "integer" in wanted:
        groups = [group for group in GROUPS if group < n] + [n]
        for (b, group), error in integer_errors(rows, groups).items():
            nbytes = planes_nbytes(shape, b) + itemsize * m * -(-n // group)
            found.append((Form("integer", bits=b, group=group), nbytes, error))
    if "ternary" in wanted:
        found.append((Form("ternary"), planes_nbytes(shape, 2) + itemsize * m, ternary_error(rows)))
    if "binary" in wanted:
        found.append((Form("binary"), planes_nbytes(shape, 1) + itemsize * m, binary_error(rows)))
    return found


def _sparse(weight: Tensor, rows: Sample, itemsize: int) -> list[tuple[Form, int, float]]:
    m, numbers = weight.shape[0], int(torch.count_nonzero(weight))
    counts = {min(round(density * weight.numel()), numbers) for density in DENSITIES}
    if numbers < weight.numel() // 2:
        counts.add(numbers)
    index = 4 if max(*weight.shape, numbers) < 2**31 else 8
    return [
        (
            Form("sparse", nnz=count),
            index * (m + 1 + count) + itemsize * count,
            0.0 if count == numbers else rows.dropped(count / weight.numel()),
        )
        for count in sorted(counts)
        if count > 0
    ]


def _measured_noise(weight: Tensor, weighing: Weighing, tail: list[float]) -> dict[int, float]:
    """What rounding both factors costs of the kept energy, measured at one middling rank for each number of bits."""
    rank = max(1, min(min(weighing.shape) // 4, 96))
    noise, spectrum = {}, weighing.decompose(weight)
    for b in FACTOR_BITS:
        made = build(Form("lowrank", rank=rank, bits=b), weight, weighing, spectrum=spectrum)
        error = weighing.error(weight, made.dense()) / weighing.total if weighing.total else 0.0
        noise[b] = max(error - tail[rank], 0.0) / max(1 - tail[rank], 1e-12)
    return noise


def _worthwhile(weight: Tensor, effort: Effort, bits: float | None) -> bool:
    """Whether to search for double binary matrices: they do not win above 3 bits, and large ones take long."""
    if effort == "full" or bits is None:
        return weight.numel() <= 8 * _LARGE
    return bits <= 3.0 and weight.numel() <= _LARGE


def _double_binary(
    weight: Tensor, weighing: Weighing, effort: Effort, bits: float | None
) -> list[tuple[Form, int, float]]:
    shape, itemsize = weighing.shape, weight.dtype.itemsize
    most = 64 * min(shape)

    def rank_at(rate: float) -> int:
        budget = budget_nbytes(shape, rate)
        return largest_rank(lambda r: double_binary_nbytes(shape, r, itemsize), budget, min(budget, most))

    rates = [rate for rate in DOUBLE_BINARY_RATES if rank_at(rate) >= 1]
    tried = rates
    if effort == "fast" and rates:
        # One search; the curve is nearly straight in the logarithm.
        tried = [min(rates, key=lambda rate: abs(rate - (bits if bits is not None else 1.5)))]
    points = {}
    for rate in tried:
        form = Form("double binary", rank=rank_at(rate))
        made = build(form, weight, weighing, iterations=_TRIAL_ITERATIONS)
        exact = 8 * double_binary_nbytes(shape, rank_at(rate), itemsize) / weight.numel()
        points[exact] = weighing.error(weight, made.dense()) / weighing.total if weighing.total else 0.0
    if not points:
        return []
    found = []
    for step in range(8, 41):
        rank = rank_at(step / 16)
        if rank >= 1:
            nbytes = double_binary_nbytes(shape, rank, itemsize)
            found.append((Form("double binary", rank=rank), nbytes, between(points, 8 * nbytes / weight.numel())))
    return list(dict.fromkeys(found))
