"""A plan read back from JSON, checked word by word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from clisonix.compress.forms import KEEP, Form
from clisonix.compress.plans import SCHEMA, LayerPlan, Plan, edited
from clisonix.compress.sizes import ITEM_BYTES, TensorSpec
from clisonix.errors import ClisonixError, nearest

T = TypeVar("T")
OBJECTIVES = {"bytes": "bytes", "seconds": "s", "joules": "J"}
_PLAN_KEYS = (
    "schema",
    "objective",
    "unit",
    "budget",
    "cost_before",
    "cost_after",
    "file_bytes",
    "dense_file_bytes",
    "calibrated",
    "notes",
    "layers",
    "tensors",
)
_LAYER_KEYS = tuple(field.name for field in fields(LayerPlan))


def parse_plan(content: Any) -> Plan:  # noqa: ANN401 - whatever JSON can say
    """The plan that `content`, read from JSON, describes.

    Sizes are worked out again. A weight whose recorded size no longer fits its form was edited by hand: its
    error becomes unknown.

    Raises:
        ClisonixError: another schema, an unknown or missing key, or a value that makes no sense.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema == "clisonix.plan/1":
        raise ClisonixError("this plan is of an older version, which knew low rank only; plan the model anew")
    if schema != SCHEMA:
        raise ClisonixError(f"this is not a plan: its schema is {schema!r} and {SCHEMA!r} was expected")
    _check_keys(content, _PLAN_KEYS, "the plan")
    objective, unit = content["objective"], content["unit"]
    if not isinstance(objective, str) or OBJECTIVES.get(objective) != unit:
        known = ", ".join(f"{name} in {unit}" for name, unit in OBJECTIVES.items())
        raise ClisonixError(f"the plan's objective is {objective!r} in {unit!r}; give {known}")
    budget = _amount(content, "budget", "the plan")
    if budget is None:
        raise ClisonixError(f"the plan has budget null; give a number of {unit}")
    tensors = tuple(_tensor(entry) for entry in _take(content, "tensors", list, "the plan"))
    specs = {spec.name: spec for spec in tensors}
    entries = _take(content, "layers", list, "the plan")
    layers = tuple(_layer(entry, specs) for entry in entries)
    for what, names in (("layers", [layer.name for layer in layers]), ("tensors", [s.name for s in tensors])):
        if len(set(names)) != len(names):
            raise ClisonixError(f"the plan's {what} name one thing twice; each name may stand once")
    plan = Plan(
        layers=layers,
        tensors=tensors,
        budget=budget,
        calibrated=_take(content, "calibrated", bool, "the plan"),
        objective=objective,
        notes=_strings(content, "notes", "the plan"),
        cost_before=_amount(content, "cost_before", "the plan"),
        cost_after=_amount(content, "cost_after", "the plan"),
        unit=unit,
    )
    changed = any(layer.bytes_after != entry["bytes_after"] for layer, entry in zip(layers, entries, strict=True))
    return replace(plan, cost_after=None) if changed else plan


def _layer(entry: Any, tensors: Mapping[str, TensorSpec]) -> LayerPlan:  # noqa: ANN401
    where = f"weight {entry.get('name')!r}" if isinstance(entry, dict) else "a weight"
    _check_keys(entry, _LAYER_KEYS, where)
    reason = entry["reason"]
    if reason is not None and not isinstance(reason, str):
        raise ClisonixError(f"{where} has reason {reason!r}; give a string or null")
    before, recorded = _count(entry, "bytes_before", where), _count(entry, "bytes_after", where)
    error = _amount(entry, "error", where)
    kept = LayerPlan(
        name=_take(entry, "name", str, where),
        kind=_take(entry, "kind", str, where),
        shape=_shape(entry["shape"], where),
        form=KEEP,
        bytes_before=before,
        bytes_after=before,
        error=error,
        reason=reason,
        tied=_strings(entry, "tied", where),
    )
    try:
        form = Form.from_json(entry["form"])
    except ClisonixError as wrong:
        raise ClisonixError(f"{where}: {wrong}") from None
    if form == KEEP:
        return kept if recorded == before else replace(kept, error=0.0, reason="kept by an edit")
    spec = tensors.get(kept.name)
    if spec is None or math.prod(spec.shape) != math.prod(kept.shape) or spec.nbytes != before:
        raise ClisonixError(f"{where} does not agree with the plan's tensors; only forms should be edited")
    planned = edited(kept, form, tensors)
    return planned if recorded != planned.bytes_after else replace(planned, error=error, reason=reason)


def _tensor(entry: Any) -> TensorSpec:  # noqa: ANN401
    match entry:
        case [str(name), str(dtype), list(shape)] if dtype in ITEM_BYTES:
            return TensorSpec(name, dtype, _shape(shape, f"tensor {name!r}"))
    raise ClisonixError(f"the plan lists the tensor {entry!r}; expected [name, dtype, shape]")


def _shape(value: Any, where: str) -> tuple[int, ...]:  # noqa: ANN401
    good = isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
    if not good or math.prod(value) > 2**53:
        raise ClisonixError(f"{where} has shape {value!r}; expected a list of sizes")
    return tuple(value)


def _amount(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry[key]
    bad = isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
    if value is not None and bad:
        raise ClisonixError(f"{where} has {key} {value!r}; give a number of at least 0, or null")
    return value  # type: ignore[no-any-return]


def _strings(entry: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = _take(entry, key, list, where)
    if not all(isinstance(text, str) for text in value):
        raise ClisonixError(f"{where} has {key} {value!r}; expected a list of strings")
    return tuple(value)


def _count(entry: dict[str, Any], key: str, where: str) -> int:
    value = _take(entry, key, int, where)
    if isinstance(value, bool) or value < 0:
        raise ClisonixError(f"{where} has {key} {value!r}; expected a whole number of bytes")
    return value


def _take(entry: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    value = entry[key]
    if not isinstance(value, kind):
        raise ClisonixError(f"{where} has {key} {value!r}; expected a JSON value of type {kind.__name__}")
    return value


def _check_keys(entry: Any, keys: tuple[str, ...], where: str) -> None:  # noqa: ANN401
    if not isinstance(entry, dict):
        raise ClisonixError(f"{where} is {entry!r}; expected a JSON object")
    for key in entry:
        if key not in keys:
            raise ClisonixError(f"{where} has the unknown key {key!r}{nearest(key, keys)}")
    for key in keys:
        if key not in entry:
            raise ClisonixError(f"{where} lacks the key {key!r}; the plan may be truncated")
