"""From a model and a budget to a plan."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from clisonix.compress.allocate import Curve, allocate
from clisonix.compress.calibrate import MASK_NOTE, Moment, gather
from clisonix.compress.plans import LayerPlan, Plan, compressed_specs, file_metadata, weight_name
from clisonix.compress.sizes import TensorSpec, file_bytes, spec_of, stored_tensors
from clisonix.compress.spectrum import Spectrum, spectra
from clisonix.compress.survey import Names, Site, survey
from clisonix.errors import ClisonixError

BLIND_NOTE = (
    "blind: no calibration was given, so errors suppose that every input direction of a layer is equally likely"
)
SAMPLE_NOTE = "errors are those on the calibration batches themselves; on new data they are larger"
NEVER_CALLED = "never called by the calibration data"
TOO_SMALL = "too small to gain: rank 1 with its file header weighs no less"
ROOM = "kept dense: these bytes save more error here than elsewhere"


def plan(
    model: nn.Module,
    *,
    budget: float | int,
    objective: str = "bytes",
    calibration: Iterable[Any] | None = None,
    include: Names = None,
    exclude: Names = None,
) -> Plan:
    """Choose a rank for each Linear and Conv layer so that the model's file meets a budget.

    What is made small is the sum over layers of the relative squared output error, each layer with the same
    weight. Activations and normalisation pass a relative error on at about its own size, so layers compare
    in this unit without knowing a loss; absolute errors would only favour layers with large outputs.

    Args:
        model: the dense model; it is not changed.
        budget: below 1, a fraction of the dense model's file; above 1, bytes. The file that `save` writes,
            header included, does not exceed it.
        objective: "bytes", the only one in this version.
        calibration: any finite iterable of batches of the model's inputs. A tensor is passed as
            `model(batch)`, a tuple or list as `model(*batch)`, a dict as `model(**batch)` if its keys are all
            named parameters of `forward` and cover the required ones, else as `model(batch)`. Layers that
            these batches never reach are kept. Without calibration the plan is blind.
        include: names or patterns of the layers that may be compressed (default: all).
        exclude: names or patterns of layers to keep.

    Returns:
        The plan, for `compress`.

    Raises:
        ClisonixError: a budget that makes no sense or is out of reach, an unknown objective or layer name,
            calibration that does not suit the model.
    """
    if objective != "bytes":
        raise ClisonixError(f"objective {objective!r} does not exist in this version; only 'bytes' does")
    return plan_with_spectra(model, budget, calibration, include, exclude)[0]


def plan_with_spectra(
    model: nn.Module,
    budget: float | int,
    calibration: Iterable[Any] | None,
    include: Names = None,
    exclude: Names = None,
) -> tuple[Plan, dict[str, Spectrum]]:
    """`plan`, together with the decompositions it rests on, so that `compress` need not repeat them."""
    sites = survey(model, include=include, exclude=exclude)
    tensors = tuple(spec_of(name, tensor) for name, tensor in stored_tensors(model).items())
    allowed = _budget_bytes(budget, file_bytes(tensors, file_metadata({})))
    moments = None if calibration is None else gather(model, sites, calibration)
    reasons = {site.name: _reason(site, tensors, moments) for site in sites}
    decomposed = spectra({s.name: s.layer for s in sites if reasons[s.name] is None}, moments)
    errors = {name: found.errors() for name, found in decomposed.items()}
    curves = [_curve(site, tensors, errors[site.name]) for site in sites if site.name in errors]

    def exact(ranks: Mapping[str, int]) -> int:
        return file_bytes(compressed_specs(tensors, ranks), file_metadata(ranks))

    ranks = allocate(curves, allowed, exact)
    layers = []
    for site in sites:
        rank = ranks.get(site.name)
        layers.append(
            LayerPlan(
                name=site.name,
                kind=site.kind,
                shape=site.shape,
                form="keep" if rank is None else "lowrank",
                rank=rank,
                bytes_before=site.nbytes,
                bytes_after=site.nbytes if rank is None else rank * _per_rank(site),
                error=0.0 if rank is None else errors[site.name][rank],
                reason=None if rank is not None else reasons[site.name] or ROOM,
            )
        )
    made = Plan(
        layers=tuple(layers),
        tensors=tensors,
        budget_bytes=allowed,
        calibrated=moments is not None,
        notes=(BLIND_NOTE,) if moments is None else (SAMPLE_NOTE, MASK_NOTE),
    )
    return made, decomposed


def _budget_bytes(budget: float | int, dense: int) -> int:
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not 0 < budget < math.inf or budget == 1:
        raise ClisonixError(
            f"the budget is {budget!r}; give a fraction of the dense file between 0 and 1, or a number of bytes"
        )
    return math.floor(budget * dense) if budget < 1 else math.floor(budget)


def _reason(site: Site, tensors: tuple[TensorSpec, ...], moments: Mapping[str, Moment] | None) -> str | None:
    if site.reason is not None:
        return site.reason
    if _curve(site, tensors, [1.0, 0.0]).ranks < 1:
        return TOO_SMALL
    return NEVER_CALLED if moments is not None and not moments[site.name].count else None


def _curve(site: Site, tensors: tuple[TensorSpec, ...], errors: list[float]) -> Curve:
    return Curve(site.name, _overhead(site, tensors), _per_rank(site), site.nbytes, errors)


def _per_rank(site: Site) -> int:
    m, n = site.shape[0], math.prod(site.shape[1:])
    return site.nbytes // (m * n) * (m + n)


def _overhead(site: Site, tensors: tuple[TensorSpec, ...]) -> int:
    """Header bytes of two factors and their line of metadata, less those of one weight.

    Only a digit or two can differ from the truth, which `allocate` asks for in the end.
    """
    name = weight_name(site.name)
    [dense] = [spec for spec in tensors if spec.name == name]
    factors = compressed_specs([dense], {site.name: 1})
    line = json.dumps(json.dumps({site.name: ["lowrank", 1]}, separators=(",", ":")))
    return _entry_bytes(*factors) - _entry_bytes(dense) + len(line) - len('"{}",')


def _entry_bytes(*specs: TensorSpec) -> int:
    return file_bytes(specs) - sum(spec.nbytes for spec in specs)
