"""A plan read back from JSON, checked word by word."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, TypeVar

from clisonix.compress.plans import SCHEMA, LayerPlan, Plan, edited
from clisonix.compress.sizes import ITEM_BYTES, TensorSpec
from clisonix.errors import ClisonixError, nearest

T = TypeVar("T")
_PLAN_KEYS = (
    "schema",
    "objective",
    "budget_bytes",
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

    Sizes are worked out again. A layer whose recorded size no longer fits its rank was edited by hand: its
    error becomes unknown.

    Raises:
        ClisonixError: another schema, an unknown or missing key, or a value that makes no sense.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ClisonixError(f"this is not a plan: its schema is {schema!r} and {SCHEMA!r} was expected")
    _check_keys(content, _PLAN_KEYS, "the plan")
    if content["objective"] != "bytes":
        raise ClisonixError(f"the plan's objective is {content['objective']!r}; only 'bytes' is known")
    tensors = tuple(_tensor(entry) for entry in _take(content, "tensors", list, "the plan"))
    shapes = {spec.name: spec for spec in tensors}
    layers = tuple(_layer(entry, shapes) for entry in _take(content, "layers", list, "the plan"))
    for what, names in (("layers", [layer.name for layer in layers]), ("tensors", [s.name for s in tensors])):
        if len(set(names)) != len(names):
            raise ClisonixError(f"the plan's {what} name one thing twice; each name may stand once")
    notes = _take(content, "notes", list, "the plan")
    if not all(isinstance(note, str) for note in notes):
        raise ClisonixError("the plan's notes must be a list of strings")
    return Plan(
        layers=layers,
        tensors=tensors,
        budget_bytes=_count(content, "budget_bytes", "the plan"),
        calibrated=_take(content, "calibrated", bool, "the plan"),
        notes=tuple(notes),
    )


def _layer(entry: Any, tensors: dict[str, TensorSpec]) -> LayerPlan:  # noqa: ANN401
    where = f"layer {entry.get('name')!r}" if isinstance(entry, dict) else "a layer"
    _check_keys(entry, _LAYER_KEYS, where)
    rank, error, reason = entry["rank"], entry["error"], entry["reason"]
    if entry["form"] not in ("lowrank", "keep") or (entry["form"] == "keep") != (rank is None):
        raise ClisonixError(
            f"{where} has form {entry['form']!r} and rank {rank!r}; give form 'lowrank' with a rank, "
            "or form 'keep' with rank null"
        )
    bad = isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error < math.inf
    if error is not None and bad:
        raise ClisonixError(f"{where} has error {error!r}; give a number of at least 0, or null")
    if reason is not None and not isinstance(reason, str):
        raise ClisonixError(f"{where} has reason {reason!r}; give a string or null")
    before = _count(entry, "bytes_before", where)
    kept = LayerPlan(
        name=_take(entry, "name", str, where),
        kind=_take(entry, "kind", str, where),
        shape=_shape(entry["shape"], where),
        form="keep",
        rank=None,
        bytes_before=before,
        bytes_after=before,
        error=error,
        reason=reason,
    )
    recorded = _count(entry, "bytes_after", where)
    if rank is None:
        return kept if recorded == before else edited(kept, None)
    spec = tensors.get(kept.weight_name)
    if spec is None or spec.shape != kept.shape or spec.nbytes != before:
        raise ClisonixError(f"{where} does not agree with the plan's tensors; only ranks should be edited")
    planned = edited(kept, rank)
    if recorded != planned.bytes_after:
        return planned
    return LayerPlan(**{**vars(planned), "error": None if error is None else float(error), "reason": reason})


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
