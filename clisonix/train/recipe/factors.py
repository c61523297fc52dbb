"""Weights as products of two thin factors before the first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clisonix.compress import converted, survey
from clisonix.compress.survey import Site
from clisonix.errors import ClisonixError
from clisonix.liam import LowRank
from clisonix.train.recipe.config import FactorsPart

# Thinner weights are little to save, and what reads them wants every direction.
_LEAST_SIDE = 32


def factorised(model: nn.Module, part: FactorsPart) -> nn.Module:
    """A copy of a fresh model whose larger linear weights are `LowRank`.

    All get the same share of their full rank, the largest at which the model keeps to the budget. A random weight has
    a flat spectrum, so there is nothing in it by which one layer would deserve more rank than another. The last
    linear layer stays dense.

    The leading singular triples of the weight, split evenly, keep the variance of its outputs when scaled back to its
    norm (Khodak et al., "Initialization and Regularization of Factorized Neural Layers", ICLR 2021, without the
    scale).

    Args:
        model: with random weights; it is not changed.
        part: the budget, relative to the bytes of all parameters, and the kind of start.

    Raises:
        ClisonixError: what stays dense is larger than the budget.
    """
    sites = _sites(model)
    total = sum(p.numel() for p in model.parameters())
    fixed = total - sum(site.weight.numel() for site in sites)
    most = part.budget * total
    if not sites or fixed + _entries(sites, 0.0) > most:
        least = (fixed + _entries(sites, 0.0)) / total
        raise ClisonixError(
            f"recipe.factors.budget is {part.budget:g} of the dense model, and rank 1 takes {least:.2g}: raise it, "
            "widen the model, or switch the part off with factors: false"
        )
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fixed + _entries(sites, middle) <= most else (low, middle)
    chosen = {site.name: rank for site in sites if (rank := _rank(site, low)) is not None}
    if not chosen:
        return model
    matrices = {site.name: _start(site.weight, chosen[site.name], part) for site in sites if site.name in chosen}
    return converted(model, matrices)


def _sites(model: nn.Module) -> list[Site]:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = f"{linear[-1]}.weight" if linear else ""
    return [
        site
        for site in survey(model)
        if site.reason is None and isinstance(site.module, nn.Linear) and site.name != head
        if min(site.matrix_shape) >= _LEAST_SIDE
    ]


def _rank(site: Site, share: float) -> int | None:
    """None where factors of that rank are no smaller than the weight."""
    m, n = site.matrix_shape
    rank = max(1, int(share * min(m, n)))
    return rank if rank * (m + n) < m * n else None


def _entries(sites: list[Site], share: float) -> int:
    ranks = [(site.matrix_shape, _rank(site, share)) for site in sites]
    return sum(m * n if rank is None else rank * (m + n) for (m, n), rank in ranks)


@torch.no_grad()
def _start(weight: Tensor, rank: int, part: FactorsPart) -> LowRank:
    m, n = weight.shape
    if part.init == "random":
        # The product has the weight's mean square: entries of variance v in each factor give r v^2 in the product.
        spread = (weight.square().mean() / rank) ** 0.25
        return LowRank(torch.randn(m, rank) * spread, torch.randn(rank, n) * spread)
    u, s, vh = torch.linalg.svd(weight.double().cpu(), full_matrices=False)
    kept = s[:rank] * (s.norm() / s[:rank].norm())
    root = kept.sqrt()
    left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
    return LowRank(left.to(weight).contiguous(), right.to(weight).contiguous())
