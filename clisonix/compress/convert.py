"""From an ordinary model to a compressed one, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clisonix.compress.calibrate import gather
from clisonix.compress.layers import LiamConv, LiamLinear
from clisonix.compress.planner import plan_with_spectra
from clisonix.compress.plans import Plan, check_rank
from clisonix.compress.sizes import spec_of, stored_tensors
from clisonix.compress.spectrum import spectra
from clisonix.compress.survey import Site, survey
from clisonix.errors import ClisonixError
from clisonix.liam.lowrank import LowRank

M = TypeVar("M", bound=nn.Module)
Factors = Callable[[str, int], tuple[Tensor, Tensor]]


def compress(
    model: nn.Module,
    plan_or_budget: Plan | float | int,
    *,
    calibration: Iterable[Any] | None = None,
) -> nn.Module:
    """A compressed copy of `model`: same inputs, same outputs up to the error, an ordinary trainable module.

    Each layer that the plan names becomes a `LiamLinear` or `LiamConv` with the factors that lose least on
    the calibration inputs (whitened SVD, as in SVD-LLM, arXiv 2403.07378, with the symmetric square root).

    Args:
        model: the dense model; it is not changed.
        plan_or_budget: a `Plan`, or a budget as `plan` takes it. With a budget, planning and factorising
            share one pass over the calibration batches.
        calibration: batches as for `plan`. Without them the SVD is plain, which a plan made with
            calibration does not expect: that case warns. Layers in a plan that the batches never reach get
            a plain SVD.

    Returns:
        A new model on the same device, in the same training mode.

    Raises:
        ClisonixError: a plan made for another model, or whatever `plan` raises.
    """
    if not isinstance(plan_or_budget, Plan):
        made, decomposed = plan_with_spectra(model, plan_or_budget, calibration)
        sites = check_sites(survey(model), made.ranks)
    else:
        made = plan_or_budget
        sites = _checked_sites(model, made)
        if calibration is None and made.calibrated and sites:
            warnings.warn(
                "the plan was made with calibration but compress got none, so its errors do not hold: the SVD is "
                "plain; pass calibration= to compress as well",
                stacklevel=2,
            )
        moments = None if calibration is None else gather(model, sites, calibration)
        decomposed = spectra({site.name: site.layer for site in sites}, moments)
    weights = {site.name: site.layer.weight for site in sites}
    return factorised(model, sites, made.ranks, lambda name, r: decomposed[name].factors(r, weights[name]))


def shell(model: nn.Module, plan: Plan) -> nn.Module:
    """The structure that `compress(model, plan)` has, with factors of zeros: to be filled from a file.

    Args:
        model: the dense model; it is not changed, and its other weights are copied.
        plan: which layers get which rank.

    Raises:
        ClisonixError: a plan made for another model.
    """
    return empty(model, _checked_sites(model, plan), plan.ranks)


def empty(model: nn.Module, sites: Iterable[Site], ranks: Mapping[str, int]) -> nn.Module:
    """`shell` for sites and ranks that have been checked."""
    weights = {site.name: site.layer.weight.detach().flatten(1) for site in sites}

    def zeros(name: str, rank: int) -> tuple[Tensor, Tensor]:
        m, n = weights[name].shape
        return weights[name].new_zeros(m, rank), weights[name].new_zeros(rank, n)

    return factorised(model, sites, ranks, zeros)


def expand(model: M) -> M:
    """A copy of a compressed model with ordinary Linear and Conv layers that compute the same.

    Args:
        model: any model; layers that are not compressed are copied as they are.

    Returns:
        A new model; the given one is not changed.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, LiamLinear | LiamConv):
            layer = module.expand()
            layer.register_parameter("bias", copy.deepcopy(module.bias, memo))
            memo[id(module)] = layer
    return copy_with(model, memo)


def factorised(model: nn.Module, sites: Iterable[Site], ranks: Mapping[str, int], factors: Factors) -> nn.Module:
    """A copy of `model` in which each site is a compressed layer made of `factors(name, rank)`."""
    memo: dict[int, Any] = {}
    for site in sites:
        old = site.layer
        left, right = factors(site.name, ranks[site.name])
        if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
            raise ClisonixError(
                f"the factors of layer {site.name!r} overflow {left.dtype}; convert the model to float32 first"
            )
        weight = LowRank(left, right).requires_grad_(old.weight.requires_grad)
        # Through the memo a bias that two layers share stays shared in the copy.
        bias = copy.deepcopy(old._parameters.get("bias"), memo)
        layer = LiamLinear(weight, bias) if isinstance(old, nn.Linear) else LiamConv(weight, bias, like=old)
        memo[id(old)] = layer.train(old.training)
    return copy_with(model, memo)


def copy_with(model: M, memo: dict[int, Any]) -> M:
    """A deep copy in which every module that `memo` knows is replaced, wherever it is referred to."""
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise ClisonixError(
            f"the model cannot be copied ({error}); drop what it holds beside modules and leaf tensors"
        ) from error


def check_sites(sites: Iterable[Site], ranks: Mapping[str, int]) -> list[Site]:
    """The sites that `ranks` names, each one fit for its rank.

    Raises:
        ClisonixError: a layer that does not exist, cannot be compressed, or cannot have the rank.
    """
    by_name = {site.name: site for site in sites}
    for name, rank in ranks.items():
        site = by_name.get(name)
        if site is None:
            raise ClisonixError(f"the plan compresses {name!r}, which is no layer of this model; use its own model")
        if site.reason is not None:
            raise ClisonixError(f"the plan compresses {name!r}, which must be kept: {site.reason}")
        check_rank(name, site.shape, rank)
    return [by_name[name] for name in ranks]


def _checked_sites(model: nn.Module, plan: Plan) -> list[Site]:
    sites = survey(model)
    here = {name: spec_of(name, tensor) for name, tensor in stored_tensors(model).items()}
    there = {spec.name: spec for spec in plan.tensors}
    for name in sorted(here.keys() | there.keys()):
        mine, planned = here.get(name), there.get(name)
        if mine != planned:
            what = " and ".join(
                f"{who} has {'no such tensor' if spec is None else f'{spec.dtype} {spec.shape}'}"
                for who, spec in (("the plan", planned), ("the model", mine))
            )
            raise ClisonixError(f"the plan was made for another model: for {name!r} {what}; plan this model anew")
    return check_sites(sites, plan.ranks)
