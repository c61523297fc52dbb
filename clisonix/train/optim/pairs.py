r"""The step of matrices that are kept as a product of two thin factors.

For `W = L R` with gradient `G`, autograd gives `G R^T` for `L` and `L^T G` for `R`. The change of `L` whose effect
`dL R` on the product has spectral norm one and lowers the loss fastest is

    dL = polar(G R^T C^{-T}) C^{-1},   C C^T = R R^T

because `C^{-1} R` has orthonormal rows; likewise for `R`. Each moves the product by half the spectral norm that the
step of a whole matrix of that shape has, so both together by no more than that, and a learning rate means the same
for a matrix and for its factors. Nothing depends on how `L R` is split: `(c L, R / c)` takes the same steps.

`C C^T` gets a multiple of the identity that keeps the term `dL dR` of second order below a quarter of the step. It is
that idea which scaled gradient descent (Tong et al., "Accelerating Ill-Conditioned Low-Rank Matrix Estimation via
Scaled Gradient Descent", JMLR 2021) uses for the Euclidean norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clisonix.kernels.newton_schulz import newton_schulz
from clisonix.train.optim.spread import part, whole
from clisonix.train.optim.work import Group, Work, local, momenta, scale_momentum, step_ratio

# Factors whose norms differ by more than this many powers of two are brought together again.
LOPSIDED = 4.0


def step_pairs(works: Sequence[Work | None], group: Group) -> None:
    """One step of `works`: left factor, right factor, left factor ...; None for one that has no gradient."""
    present = [work for work in works if work is not None]
    updates = {id(work): update for work, update in zip(present, momenta(present, group), strict=True)}
    stacks: dict[tuple[object, ...], list[_Pair]] = {}
    for k in range(0, len(works), 2):
        left, right = works[k], works[k + 1]
        if left is None and right is None:
            continue
        sides = [_whole_of(work, parameter) for work, parameter in zip((left, right), group["params"][k : k + 2])]  # noqa: B905
        moves = [None if work is None else whole(updates[id(work)], work.parameter) for work in (left, right)]
        pair = _Pair((left, right), (sides[0], sides[1]), (moves[0], moves[1]))
        stacks.setdefault(pair.kind, []).append(pair)
    for pairs in stacks.values():
        _step_stack(pairs, group)


class _Pair:
    """One product: the work of its factors, their whole entries and what is to be orthogonalised."""

    def __init__(
        self,
        works: tuple[Work | None, Work | None],
        sides: tuple[Tensor, Tensor],
        moves: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self.works, self.sides, self.moves = works, sides, moves

    @property
    def kind(self) -> tuple[object, ...]:
        left, right = self.sides
        return left.shape, right.shape, left.dtype, left.device, self.moves[0] is None, self.moves[1] is None


def _step_stack(pairs: list[_Pair], group: Group) -> None:
    left, right = (torch.stack([pair.sides[k] for pair in pairs]) for k in (0, 1))
    lr = float(group["lr"])
    step = lr * step_ratio(group["adjust_lr"], left.shape[1], right.shape[2])
    damping = _damping(left, right, step)
    moving = [k for k in (0, 1) if pairs[0].moves[k] is not None]
    decay = (1 - lr * group["weight_decay"]) ** (1 / len(moving))
    changes: dict[int, Tensor] = {}
    for k in moving:
        gradient = torch.stack([move for pair in pairs if (move := pair.moves[k]) is not None])
        # The right factor is the left one of the transposed product.
        if k == 0:
            changes[0] = _change(gradient, right, damping[1], group)
        else:
            changes[1] = _change(gradient.mT, left.mT, damping[0], group).mT
    balance = _balance(left, right) if len(moving) == 2 else None
    for i, pair in enumerate(pairs):
        for k in moving:
            work = pair.works[k]
            assert work is not None
            work.value.mul_(decay).sub_(part(changes[k][i], work.parameter), alpha=step / len(moving))
            if balance is not None:
                factor = balance[i] if k == 0 else 1 / balance[i]
                work.value.mul_(factor)
                scale_momentum(work, 1 / factor)


def _change(gradient: Tensor, other: Tensor, damping: Tensor, group: Group) -> Tensor:
    """`dL` for gradients `(b, m, r)` of `L` and the factors `R` `(b, r, n)` beside it."""
    gram = other @ other.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(damping[:, None])
    root, _ = torch.linalg.cholesky_ex(gram)
    scaled = torch.linalg.solve_triangular(root.mT, gradient, upper=True, left=False)
    polar = newton_schulz(
        scaled,
        steps=group["ns_steps"],
        coefficients=group["ns_coefficients"],
        eps=group["ns_eps"],
        dtype=group["ns_dtype"],
    )
    change: Tensor = torch.linalg.solve_triangular(root, polar, upper=False, left=False)
    return change


def _damping(left: Tensor, right: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """`(b,)` for `L^T L` and for `R R^T`; their product is `step` squared."""
    sizes = [torch.linalg.vector_norm(side, dim=(1, 2)) for side in (left, right)]
    step, rank = max(step, 1e-12), left.shape[2]
    ratio = sizes[0] / sizes[1]
    # A factor that is still zero (as adapters start) counts as what the first step makes of it.
    ratio = torch.where(sizes[0] == 0, step * rank / sizes[1].square(), ratio)
    ratio = torch.where(sizes[1] == 0, sizes[0].square() / (step * rank), ratio)
    ratio = torch.where((sizes[0] == 0) & (sizes[1] == 0), 1.0, ratio)
    rounding = 8 * torch.finfo(left.dtype).eps
    return (
        torch.maximum(step * ratio, rounding * sizes[0].square()),
        torch.maximum(step / ratio, rounding * sizes[1].square()),
    )


def _balance(left: Tensor, right: Tensor) -> Tensor:
    """`(b,)` what to multiply `L` by and divide `R` by: a power of two, so that the product stays the same bits."""
    sizes = [torch.linalg.vector_norm(side, dim=(1, 2)) for side in (left, right)]
    apart = torch.log2(sizes[1]) - torch.log2(sizes[0])
    needed = apart.isfinite() & (apart.abs() > LOPSIDED)
    return torch.where(needed, torch.exp2((apart / 2).nan_to_num(0, 0, 0).round()), 1.0)


def _whole_of(work: Work | None, parameter: Tensor) -> Tensor:
    if work is not None:
        return whole(work.value, parameter)
    held = whole(local(parameter), parameter)
    return held.to(torch.promote_types(held.dtype, torch.float32))
