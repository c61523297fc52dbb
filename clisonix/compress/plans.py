"""What shall become of each layer: a plan that people can read, edit and keep as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clisonix.compress.sizes import TensorSpec, file_bytes
from clisonix.errors import ClisonixError, nearest
from clisonix.files import write_bytes

SCHEMA = "clisonix.plan/1"
MODEL_SCHEMA = "clisonix.model/1"
METADATA_KEY = "clisonix"
EDITED = "the rank was edited after planning, so its error is not known"


@dataclass(frozen=True)
class LayerPlan:
    """The plan for one layer.

    Attributes:
        name: where it sits in the model, as in `named_modules()`; "" is the model itself.
        kind: its class, such as "Linear".
        shape: of its weight.
        form: "lowrank", or "keep" when it stays as it is.
        rank: columns of the left factor, for "lowrank".
        bytes_before: tensor bytes of the weight now (of all weights, where a layer has several).
        bytes_after: the same after compression. Biases and the file header are counted in `Plan.file_bytes`.
        error: expected squared error of the output over its expected squared size, under the calibration
            inputs plus a small ridge (under white inputs for a blind plan); 0 for "keep", None when not known.
        reason: why it is kept, or what a reader should know.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    form: str
    rank: int | None
    bytes_before: int
    bytes_after: int
    error: float | None
    reason: str | None = None

    @property
    def weight_name(self) -> str:
        """The name of the weight in `state_dict()`."""
        return weight_name(self.name)


@dataclass(frozen=True)
class Plan:
    """A plan for a whole model. `str(plan)` is a table; `to_json()` can be edited by hand.

    Attributes:
        layers: one entry per layer that has a weight matrix.
        tensors: every tensor of the dense model's file, so that sizes are exact after an edit as well.
        budget_bytes: what the file may weigh.
        calibrated: whether errors were measured on calibration inputs.
        objective: what is bounded; "bytes".
        notes: what a reader should know.
    """

    layers: tuple[LayerPlan, ...]
    tensors: tuple[TensorSpec, ...]
    budget_bytes: int
    calibrated: bool
    objective: str = "bytes"
    notes: tuple[str, ...] = ()

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of every layer that gets compressed, by name."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def file_bytes(self) -> int:
        """Exact size of the file that `save` writes for the compressed model."""
        return file_bytes(compressed_specs(self.tensors, self.ranks), file_metadata(self.ranks))

    @property
    def dense_file_bytes(self) -> int:
        """Exact size of the file that `save` writes for the dense model."""
        return file_bytes(self.tensors, file_metadata({}))

    def with_rank(self, name: str, rank: int | None) -> Plan:
        """The same plan with another rank for one layer (None: keep it dense). Its error is then unknown.

        Raises:
            ClisonixError: no such layer, or a rank it cannot have.
        """
        if name not in {layer.name for layer in self.layers}:
            hint = nearest(name, (layer.name for layer in self.layers))
            raise ClisonixError(f"the plan has no layer {name!r}{hint}")
        layers = tuple(edited(layer, rank) if layer.name == name else layer for layer in self.layers)
        return replace(self, layers=layers)

    def to_json(self) -> str:
        """Indented JSON, one line per layer and per tensor."""
        head: dict[str, Any] = {
            "schema": SCHEMA,
            "objective": self.objective,
            "budget_bytes": self.budget_bytes,
            "file_bytes": self.file_bytes,
            "dense_file_bytes": self.dense_file_bytes,
            "calibrated": self.calibrated,
            "notes": list(self.notes),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in head.items()]
        layers = ",\n".join(f"    {json.dumps(asdict(layer), allow_nan=False)}" for layer in self.layers)
        tensors = ",\n".join(f"    {json.dumps(list(spec))}" for spec in self.tensors)
        lines += [f'  "layers": [\n{layers}\n  ]', f'  "tensors": [\n{tensors}\n  ]']
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read `to_json()` back, edited or not; sizes are worked out again from the ranks.

        Raises:
            ClisonixError: not JSON, another schema, or an entry that makes no sense.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ClisonixError(f"the plan is not valid JSON ({error}); it may be truncated") from error
        from clisonix.compress.parse import parse_plan

        return parse_plan(content)

    def save(self, path: str | Path) -> None:
        """Write `to_json()` to `path` atomically."""
        write_bytes(Path(path), self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan written by `save`.

        Raises:
            ClisonixError: as `from_json`, or the file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ClisonixError(f"cannot read the plan {path}: {error}") from error
        return Plan.from_json(text)

    def __str__(self) -> str:
        names = [layer.name or "(model)" for layer in self.layers]
        width = max([5, *map(len, names)])
        kinds = max([4, *(len(layer.kind) for layer in self.layers)])
        lines = [f"{'layer':{width}}  {'kind':{kinds}}  {'rank':>5}  {'bytes':>23}  {'error':>8}  reason"]
        for name, layer in zip(names, self.layers, strict=True):
            rank = "keep" if layer.rank is None else str(layer.rank)
            size = f"{layer.bytes_before:,} → {layer.bytes_after:,}"
            error = "unknown" if layer.error is None else f"{layer.error:.2g}"
            lines.append(
                f"{name:{width}}  {layer.kind:{kinds}}  {rank:>5}  {size:>23}  {error:>8}  {layer.reason or ''}"
            )
        lines.append(f"file: {self.dense_file_bytes:,} → {self.file_bytes:,} bytes, budget {self.budget_bytes:,}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def weight_name(layer: str) -> str:
    """The name of a layer's weight in `state_dict()`; the name of the model itself is ""."""
    return f"{layer}.weight" if layer else "weight"


def compressed_specs(tensors: Iterable[TensorSpec], ranks: Mapping[str, int]) -> list[TensorSpec]:
    """The tensors of the compressed model's file, from those of the dense one."""
    by_weight = {weight_name(layer): rank for layer, rank in ranks.items()}
    specs: list[TensorSpec] = []
    for spec in tensors:
        rank = by_weight.get(spec.name)
        if rank is None:
            specs.append(spec)
        else:
            specs.append(TensorSpec(f"{spec.name}.left", spec.dtype, (spec.shape[0], rank)))
            right = (rank, math.prod(spec.shape[1:]))
            specs.append(TensorSpec(f"{spec.name}.right", spec.dtype, right))
    return specs


def file_metadata(ranks: Mapping[str, int]) -> dict[str, str]:
    """What a model file says about its own structure. One key, sorted inside: the same model, the same bytes.

    The version is that of the format, not of the package, so that a size planned today holds tomorrow.
    """
    layers = {name: ["lowrank", rank] for name, rank in sorted(ranks.items())} or None
    content = {"schema": MODEL_SCHEMA, "plan": layers}
    return {METADATA_KEY: json.dumps(content, separators=(",", ":"))}


def check_rank(name: str, shape: tuple[int, ...], rank: object) -> int:
    """`rank`, if a layer with a weight of this shape can have it.

    Raises:
        ClisonixError: not a whole number between 1 and the full rank.
    """
    full = min(shape[0], math.prod(shape[1:])) if len(shape) > 1 else 0
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= full:
        raise ClisonixError(
            f"layer {name!r} has rank {rank!r} but its weight is {shape}; give a whole number from 1 to {full}"
        )
    return rank


def edited(layer: LayerPlan, rank: int | None) -> LayerPlan:
    """`layer` with a rank that nobody planned.

    Raises:
        ClisonixError: a rank that its shape does not allow.
    """
    if rank is None:
        size, why = layer.bytes_before, "kept by an edit"
        return replace(layer, form="keep", rank=None, bytes_after=size, error=0.0, reason=why)
    check_rank(layer.name, layer.shape, rank)
    m, n = layer.shape[0], math.prod(layer.shape[1:])
    size = layer.bytes_before // (m * n) * rank * (m + n)
    return replace(layer, form="lowrank", rank=rank, bytes_after=size, error=None, reason=EDITED)
