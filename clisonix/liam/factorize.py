"""The best form of a weight for a number of bits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from clisonix.errors import ClisonixError, nearest
from clisonix.liam.budget import FORMS, Task
from clisonix.liam.double_binary import ITERATIONS
from clisonix.liam.footprint import bits_text, budget_nbytes
from clisonix.liam.matrix import Matrix
from clisonix.liam.metric import Metric

# Above this many bits a double binary factorisation takes longest and does not win: it is tried when named.
DOUBLE_BINARY_UP_TO = 3.0


@dataclass(frozen=True)
class Candidate:
    """One form of a weight within a budget.

    Attributes:
        form: its name, as in `candidates(forms=...)`.
        matrix: the weight in that form.
        error: weighted norm of the deviation relative to that of the weight, measured on what the matrix stores.
        nbytes: what it weighs when saved; at most the budget.
        seconds: what finding it took.
    """

    form: str
    matrix: Matrix
    error: float
    nbytes: int
    seconds: float


@torch.no_grad()
def candidates(
    weight: Tensor,
    bits: float,
    *,
    moments: Tensor | None = None,
    output_weights: Tensor | None = None,
    forms: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    iterations: int = ITERATIONS,
    generator: torch.Generator | None = None,
    prune: bool = False,
) -> list[Candidate]:
    """`weight` in every form that fits a budget, each as good as it gets there.

    Args:
        weight: `(m, n)`, finite floating point.
        bits: budget for each entry, everything counted: `floor(bits * m * n / 8)` bytes of tensors when saved.
        moments: `(n, n)`, `mean(v vᵀ)` over the inputs `v` of the weight; None: all directions alike.
        output_weights: `(m,)`, how much the squared error of each output counts, say the mean square of the loss's
            gradient by it; None takes all alike.
        forms: which to try: "dense", "binary", "ternary", "integer", "double binary", "low rank" with factors of
            `dtype` or "low rank, 8 bits" (4, 3), "sparse". By default "dense" alone where it fits, and else all,
            but "double binary" only up to 3 bits, above which it is slow and does not win.
        dtype: of scales and of all that is not packed, and so of the matrices; that of `weight` by default.
        iterations: of the double binary search; more is better and takes longer, in proportion.
        generator: draws the start of the double binary search; a fixed seed without one.
        prune: leave out forms of low rank that are worse than another form for their rank alone, without trying.

    Returns:
        The best first. Forms that need more than the budget are left out.

    Raises:
        ClisonixError: no form fits, `bits` is no budget, a form is unknown, or shapes do not fit.
    """
    metric = Metric(weight, moments, output_weights)
    nbytes, kept = budget_nbytes(metric.shape, bits), dtype or weight.dtype
    names = _names(forms, bits if weight.numel() else math.inf, kept)
    task = Task(weight.detach(), nbytes, metric, kept, iterations, generator)
    least = {name: FORMS[name].least(metric.shape, kept.itemsize) for name in names}
    fitting = [name for name in names if least[name] <= nbytes]
    if not fitting:
        cheapest = min(names, key=lambda name: least[name])
        raise ClisonixError(
            f"bits={bits} is a budget of {nbytes} bytes for a weight {metric.shape}, but the least possible is "
            f"{least[cheapest]} ({cheapest}, {kept}); give {bits_text(least[cheapest], metric.shape)} or more."
        )
    found: list[Candidate] = []
    for name in fitting:
        rank = FORMS[name].rank
        if prune and rank and found and task.least_error(rank(task)) > min(other.error for other in found):
            continue
        found.append(_measured(name, task))
    return sorted(found, key=lambda candidate: (candidate.error, candidate.nbytes))


def factorize(
    weight: Tensor,
    bits: float,
    *,
    moments: Tensor | None = None,
    output_weights: Tensor | None = None,
    forms: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    iterations: int = ITERATIONS,
    generator: torch.Generator | None = None,
) -> Matrix:
    """The first of `candidates`, which says what the arguments are: the form with the least weighted error."""
    found = candidates(
        weight,
        bits,
        moments=moments,
        output_weights=output_weights,
        forms=forms,
        dtype=dtype,
        iterations=iterations,
        generator=generator,
        prune=True,
    )
    return found[0].matrix


def _names(forms: Iterable[str] | None, bits: float, dtype: torch.dtype) -> list[str]:
    if forms is None:
        if bits >= 8 * dtype.itemsize:
            return ["dense"]
        return [name for name in FORMS if name != "double binary" or bits <= DOUBLE_BINARY_UP_TO]
    names = list(dict.fromkeys([forms] if isinstance(forms, str) else forms))
    if not names:
        raise ClisonixError(f"forms={forms!r} names no form; valid are {', '.join(FORMS)}.")
    for name in names:
        if name not in FORMS:
            raise ClisonixError(f"The form {name!r} is unknown{nearest(str(name), FORMS)}.")
    return names


def _measured(name: str, task: Task) -> Candidate:
    start = time.perf_counter()
    matrix = FORMS[name].build(task)
    seconds = time.perf_counter() - start
    return Candidate(name, matrix, task.metric.error(task.weight, matrix), matrix.nbytes, seconds)
