"""Nearly orthogonal factors of many matrices at once, by the Newton-Schulz iteration that the Muon optimiser uses.

Five steps of `X <- a X + b (X X^T) X + c (X X^T)^2 X` bring every singular value that is not tiny near one: Jordan et
al., "Muon: an optimizer for hidden layers in neural networks" (2024), after Björck and Bowie (1971). Matrices of one
shape are one stack, so that a model costs a few batched products instead of some for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from clisonix.errors import ClisonixError, nearest

Backend = Literal["reference", "triton"]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# From this ratio of the sides on, iterating on the small square `X X^T` takes fewer operations than on `X`.
GRAM_RATIO = 1.5
# Entries of a stack: 256 MB of float32. More matrices of one shape make several stacks.
STACK_ENTRIES = 1 << 26

Symmetric = Callable[[Tensor, Tensor | None, float, float], Tensor]


def newton_schulz(
    x: Tensor,
    *,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    backend: Backend = "reference",
) -> Tensor:
    """Each matrix of a stack with its singular values brought near one.

    Args:
        x: `(m, n)` or `(..., m, n)`, floating point.
        steps: of the iteration, at least 1.
        coefficients: `a, b, c` of the quintic.
        eps: the least norm that a matrix is divided by, so that a matrix of zeros stays one.
        dtype: to compute in; by default bfloat16 on a GPU, as Muon does, and float32 or wider elsewhere, because most
            CPUs multiply bfloat16 slowly. In float32 and float64, matrices much longer than wide iterate on `X X^T`,
            which gives the same up to rounding.
        backend: `"reference"` is batched products of torch. `"triton"` computes symmetric products by one triangle;
            it has not yet run on a GPU, so nothing selects it.

    Returns:
        As `x`, in its dtype.

    Raises:
        ClisonixError: not a stack of floating-point matrices, no steps, an unknown backend, or one that cannot run
            here.
    """
    if x.ndim < 2 or not x.is_floating_point() or steps < 1:
        raise ClisonixError(
            f"Newton-Schulz was given {x.dtype} of shape {tuple(x.shape)} and steps={steps}; it needs floating-point "
            "matrices (..., m, n) and at least 1 step."
        )
    symmetric = _symmetric(backend, x)
    if dtype is None:
        dtype = torch.bfloat16 if x.is_cuda else torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        y = x.reshape(-1, *x.shape[-2:]).to(dtype)
        tall = y.shape[1] > y.shape[2]
        y = y.mT if tall else y
        y = y / torch.linalg.matrix_norm(y, keepdim=True).clamp(min=eps)
        wide = y.shape[2] >= GRAM_RATIO * y.shape[1] and dtype in (torch.float32, torch.float64)
        y = (_on_the_gram if wide else _on_itself)(y, steps, coefficients, symmetric)
        return (y.mT if tall else y).reshape(x.shape).to(x.dtype)


def orthogonalise(
    matrices: Sequence[Tensor],
    *,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    backend: Backend = "reference",
    stack_entries: int = STACK_ENTRIES,
) -> list[Tensor]:
    """`newton_schulz` of each of some matrices, those of one shape (or its transpose) as one stack.

    Args:
        matrices: each `(m, n)`.
        steps: this and what follows as in `newton_schulz`.
        coefficients: likewise.
        eps: likewise.
        dtype: likewise.
        backend: likewise.
        stack_entries: numbers that one stack may hold; a single larger matrix is a stack of its own.

    Returns:
        The results in the order of `matrices`, each with the shape and dtype of its matrix. Those of a stack share
        memory.
    """
    results: dict[int, Tensor] = {}
    for indices in stacks(matrices, stack_entries):
        lying = [matrices[i] if matrices[i].shape[0] <= matrices[i].shape[1] else matrices[i].mT for i in indices]
        done = newton_schulz(
            torch.stack(lying), steps=steps, coefficients=coefficients, eps=eps, dtype=dtype, backend=backend
        )
        for i, y in zip(indices, done.unbind(0), strict=True):
            results[i] = y if matrices[i].shape[0] <= matrices[i].shape[1] else y.mT
    return [results[i] for i in range(len(matrices))]


def stacks(matrices: Sequence[Tensor], stack_entries: int = STACK_ENTRIES) -> list[list[int]]:
    """Which matrices go into one stack: the indices of those with equal sides, dtype and device.

    Raises:
        ClisonixError: one is not a matrix.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        if matrix.ndim != 2:
            raise ClisonixError(f"Tensor {i} has shape {tuple(matrix.shape)}; give matrices (m, n).")
        groups.setdefault((*sorted(matrix.shape), matrix.dtype, matrix.device), []).append(i)
    parts = []
    for group in groups.values():
        most = max(1, stack_entries // max(matrices[group[0]].numel(), 1))
        parts += [group[start : start + most] for start in range(0, len(group), most)]
    return parts


def _on_itself(y: Tensor, steps: int, coefficients: tuple[float, float, float], symmetric: Symmetric) -> Tensor:
    a, b, c = coefficients
    for _ in range(steps):
        gram = symmetric(y, None, 1.0, 0.0)
        y = torch.baddbmm(y, symmetric(gram, gram, c, b), y, beta=a)
    return y


def _on_the_gram(y: Tensor, steps: int, coefficients: tuple[float, float, float], symmetric: Symmetric) -> Tensor:
    """The same with `gram = y y^T` carried along: a step multiplies it by a polynomial of itself on both sides."""
    a, b, c = coefficients
    gram = symmetric(y, None, 1.0, 0.0)
    product = None
    for step in range(steps):
        factor = symmetric(gram, gram, c, b)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ y


def _symmetric(backend: Backend, x: Tensor) -> Symmetric:
    """`alpha * x @ x.mT + beta * c` for a stack `x`, `c` symmetric."""
    if backend == "reference":
        return _symmetric_reference
    if backend != "triton":
        raise ClisonixError(f"backend={backend!r} is unknown{nearest(backend, ('reference', 'triton'))}.")
    if find_spec("triton") is None:
        raise ClisonixError('backend="triton" needs the package triton; install it or use "reference".')
    from clisonix.kernels.gpu_blocks import symmetric_product

    return symmetric_product


def _symmetric_reference(x: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    if c is None:
        return torch.bmm(x, x.mT) if alpha == 1.0 else torch.bmm(x, x.mT) * alpha
    return torch.baddbmm(c, x, x.mT, beta=beta, alpha=alpha)
