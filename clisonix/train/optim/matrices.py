"""The step of parameters that are matrices, all of one shape together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clisonix.kernels.newton_schulz import orthogonalise
from clisonix.train.optim.spread import Sharing, exchanges
from clisonix.train.optim.work import Group, Work, momenta, step_ratio


def step_matrices(parts: Sequence[tuple[Group, list[Work]]], ranks: Any = None) -> None:  # noqa: ANN401
    """Orthogonalised momentum (Muon): Jordan et al. (2024), Liu et al., arXiv 2502.16982.

    Args:
        parts: groups with their parameters; those with equal settings of the iteration share stacks.
        ranks: the process group over which replicated parameters are dealt out, or None.
    """
    alike: dict[tuple[Any, ...], list[tuple[Group, Work, Tensor]]] = {}
    for group, works in parts:
        if not works:
            continue
        key = (group["ns_steps"], tuple(group["ns_coefficients"]), group["ns_eps"], group["ns_dtype"])
        alike.setdefault(key, []).extend(
            (group, work, update) for work, update in zip(works, momenta(works, group), strict=True)
        )
    directions: dict[int, Tensor] = {}
    for entries in alike.values():
        directions |= _directions(entries, ranks)
    for group, works in parts:
        if works:
            _apply(group, works, [directions[id(work)] for work in works])


def matrices_of(x: Tensor, group: Group) -> list[Tensor]:
    """`x` as matrices: a stack as its members, anything else flattened from axis 1 on and cut into `pieces`."""
    if group["stack"]:
        return list(x.reshape(-1, *x.shape[-2:]).unbind(0))
    pieces = group["pieces"]
    return list(x.reshape(pieces, x.shape[0] // pieces, -1).unbind(0)) if x.ndim > 2 or pieces > 1 else [x]


def _directions(entries: list[tuple[Group, Work, Tensor]], ranks: Any) -> dict[int, Tensor]:  # noqa: ANN401
    """The orthogonalised update of each, on this rank, by the `id` of its work."""
    parameters = [work.parameter for _, work, _ in entries]
    found: dict[int, Tensor] = {}
    ways: list[Sharing] = exchanges(parameters, ranks)
    todo = [(way, i, whole) for way in ways for i, whole in way.collect([update for *_, update in entries])]
    flat = [(k, matrix) for k, (_, i, whole) in enumerate(todo) for matrix in matrices_of(whole, entries[i][0])]
    group = entries[0][0]
    done = orthogonalise(
        [matrix for _, matrix in flat],
        steps=group["ns_steps"],
        coefficients=group["ns_coefficients"],
        eps=group["ns_eps"],
        dtype=group["ns_dtype"],
    )
    results: list[list[Tensor]] = [[] for _ in todo]
    for (k, _), matrix in zip(flat, done, strict=True):
        results[k].append(matrix)
    for way in ways:
        mine = {
            i: (torch.stack(result) if len(result) > 1 else result[0]).reshape(whole.shape)
            for (other, i, whole), result in zip(todo, results, strict=True)
            if other is way
        }
        found |= {id(entries[i][1]): direction for i, direction in way.hand_back(mine).items()}
    return found


def _apply(group: Group, works: list[Work], directions: list[Tensor]) -> None:
    lr = float(group["lr"])
    torch._foreach_mul_([work.value for work in works], 1 - lr * group["weight_decay"])
    by_step: dict[float, list[int]] = {}
    for i, work in enumerate(works):
        rows, columns = matrix_shape(work.parameter, group)
        by_step.setdefault(lr * step_ratio(group["adjust_lr"], rows, columns), []).append(i)
    for step, chosen in by_step.items():
        torch._foreach_add_([works[i].value for i in chosen], [directions[i] for i in chosen], alpha=-step)


def matrix_shape(parameter: Tensor, group: Group) -> tuple[int, int]:
    """Rows and columns of each matrix in a parameter."""
    if group["stack"]:
        return parameter.shape[-2], parameter.shape[-1]
    return parameter.shape[0] // group["pieces"], parameter[0].numel()
