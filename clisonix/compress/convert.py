"""From an ordinary model to one with matrices for weights, and back."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from clisonix.compress.forms import Form
from clisonix.compress.kinds import is_conv1d
from clisonix.compress.layers import (
    LiamConv,
    LiamConv1D,
    LiamEmbedding,
    LiamGRU,
    LiamLayer,
    LiamLinear,
    LiamLSTM,
    LiamMultiheadAttention,
)
from clisonix.compress.layers.base import Dense
from clisonix.compress.layers.encoder import keep_from_nesting, let_nest_again
from clisonix.compress.plans import Plan
from clisonix.compress.sizes import spec_of, stored_tensors
from clisonix.compress.survey import Site, survey
from clisonix.errors import ClisonixError
from clisonix.liam.matrix import Matrix

M = TypeVar("M", bound=nn.Module)


def converted(model: nn.Module, matrices: Mapping[str, Matrix], *, sites: Iterable[Site] | None = None) -> nn.Module:
    """A copy of `model` in which some weights are matrices: same inputs, same outputs up to what these lose.

    Args:
        model: the dense model; it is not changed, and its other weights are copied.
        matrices: by the weight's name in `state_dict()`; a tied weight by its first name, replaced everywhere. They
            are put in as they are, and learn if the weight did.
        sites: from `survey(model)`, if at hand.

    Returns:
        A new model in the same training mode.

    Raises:
        ClisonixError: a name that is no weight, a weight that must be kept, or a matrix that does not fit it.
    """
    chosen = checked_sites(survey(model, values=False) if sites is None else sites, matrices)
    modules = dict(model.named_modules())
    weights: dict[int, dict[str, Matrix]] = defaultdict(dict)
    dtypes: dict[int, torch.dtype] = {}
    for site in chosen:
        matrix = matrices[site.name]
        _check_matrix(site, matrix)
        matrix.requires_grad_(site.tensor.requires_grad)
        for place in site.places:
            holder = id(modules[place.module])
            weights[holder][place.parameter] = matrix
            dtypes[holder] = site.tensor.dtype
    memo: dict[int, Any] = {}
    attentions = _attentions(modules, set(weights))
    for module in modules.values():
        if id(module) in weights and module not in attentions:
            memo[id(module)] = _layer(module, weights[id(module)], dtypes[id(module)]).train(module.training)
    for attention in attentions:
        out_proj = memo.get(id(attention.out_proj)) or _twin(attention.out_proj)
        layer = LiamMultiheadAttention(attention, weights.get(id(attention), {}), out_proj)
        memo[id(attention)] = layer.train(attention.training)
    for layer in list(memo.values()):
        _own(layer, memo, set())
    made = copied(model, memo)
    for encoder in made.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(isinstance(m, LiamLayer) for m in encoder.modules()):
            keep_from_nesting(encoder)
    return made


def shell(model: nn.Module, plan: Plan) -> nn.Module:
    """The structure that `compress(model, plan)` has, with matrices of zeros: to be filled from a file.

    Args:
        model: the dense model; it is not changed, and its other weights are copied.
        plan: which weights get which form.

    Raises:
        ClisonixError: a plan made for another model.
    """
    return blank_model(model, planned_sites(model, plan), plan.forms)


def blank_model(model: nn.Module, sites: Iterable[Site], forms: Mapping[str, Form]) -> nn.Module:
    """`shell` for sites and forms that have been checked."""
    chosen = list(sites)
    empty = {
        site.name: forms[site.name].empty(site.matrix_shape, site.tensor.dtype, site.tensor.device) for site in chosen
    }
    return converted(model, empty, sites=chosen)


def expand(model: M) -> M:
    """A copy of a compressed model with ordinary layers that compute the same; what was tied is tied again.

    Args:
        model: any model; layers that are not compressed are copied as they are.

    Returns:
        A new model; the given one is not changed.
    """
    memo: dict[int, Any] = {}
    made: Dense = {}
    for module in model.modules():
        if isinstance(module, LiamLayer) and isinstance(module, nn.Module) and id(module) not in memo:
            memo[id(module)] = module.expand(made)
    fresh = {id(parameter) for parameter in made.values()}
    for layer in list(memo.values()):
        _own(layer, memo, fresh)
    dense = copied(model, memo)
    for encoder in dense.modules():
        if isinstance(encoder, nn.TransformerEncoder):
            let_nest_again(encoder)
    return dense


def copied(model: M, memo: dict[int, Any]) -> M:
    """A deep copy in which everything that `memo` knows is replaced, wherever it is referred to."""
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ClisonixError(
            f"the model cannot be copied ({error}); drop what it holds beside modules and leaf tensors"
        ) from error


def checked_sites(sites: Iterable[Site], names: Iterable[str]) -> list[Site]:
    """The sites of the weights that `names` names.

    Raises:
        ClisonixError: a weight that does not exist or cannot be compressed.
    """
    by_name = {site.name: site for site in sites}
    for name in names:
        site = by_name.get(name)
        if site is None:
            raise ClisonixError(f"the plan compresses {name!r}, which is no weight of this model; use its own model")
        if site.reason is not None:
            raise ClisonixError(f"the plan compresses {name!r}, which must be kept: {site.reason}")
    return [by_name[name] for name in names]


def planned_sites(model: nn.Module, plan: Plan) -> list[Site]:
    """The sites that `plan` compresses.

    Raises:
        ClisonixError: it was made for another model, or a form does not suit its weight.
    """
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
    chosen = checked_sites(sites, plan.forms)
    for site in chosen:
        plan.forms[site.name].check(site.name, site.matrix_shape)
    return chosen


def _check_matrix(site: Site, matrix: Matrix) -> None:
    if not isinstance(matrix, Matrix):
        raise ClisonixError(f"for {site.name!r} a {type(matrix).__name__} was given; give a matrix of clisonix.liam")
    if matrix.shape != site.matrix_shape or matrix.device != site.tensor.device:
        raise ClisonixError(
            f"the matrix for {site.name!r} is {matrix.shape} on {matrix.device} and must be {site.matrix_shape} on "
            f"{site.tensor.device}; factorise that weight itself"
        )
    for tensor in matrix.state_dict(keep_vars=True).values():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all()):
            raise ClisonixError(
                f"the matrix for {site.name!r} holds numbers beyond {tensor.dtype}; "
                "convert the model to float32 first"
            )


def _layer(module: nn.Module, weights: Mapping[str, Matrix], dtype: torch.dtype) -> nn.Module:
    """The compressed layer for `module`, which shares everything that is kept with it."""
    if isinstance(module, nn.LSTM | nn.GRU):
        return (LiamLSTM if isinstance(module, nn.LSTM) else LiamGRU)(module, weights)
    weight = weights["weight"]
    if isinstance(module, nn.Embedding):
        return LiamEmbedding(weight, module.padding_idx, dtype=dtype)
    bias = module._parameters.get("bias")
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return LiamConv(weight, bias, like=module, dtype=dtype)
    if is_conv1d(module):
        return LiamConv1D(weight, bias, type(module), dtype=dtype)
    return LiamLinear(weight, bias, dtype=dtype)


def _attentions(modules: Mapping[str, nn.Module], replaced: set[int]) -> list[nn.MultiheadAttention]:
    """Those that must become ours: attentions and encoders of torch read what is in them themselves."""
    found: dict[int, nn.MultiheadAttention] = {}
    for module in modules.values():
        own = isinstance(module, nn.MultiheadAttention)
        if not own and not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        inside = dict(module.named_modules())
        if replaced.intersection(map(id, inside.values())):
            found |= {id(part): part for part in inside.values() if isinstance(part, nn.MultiheadAttention)}
    return list(found.values())


def _twin(module: M) -> M:
    """Another module that shares every tensor and may be given others."""
    twin = copy.copy(module)
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    return twin


def _own(module: nn.Module, memo: dict[int, Any], fresh: set[int]) -> None:
    """Copy the parameters that `module` shares with its original; through the memo, what was shared stays so."""
    if isinstance(module, Matrix):
        return
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in fresh:
            setattr(module, name, copy.deepcopy(parameter, memo))
    for child in module.children():
        _own(child, memo, fresh)
