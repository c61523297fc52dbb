"""What shall become of each weight: a plan that people can read, edit, compare and keep as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from clisonix.compress.forms import KEEP, Form, Shape
from clisonix.compress.sizes import DTYPES, TensorSpec, file_bytes
from clisonix.errors import ClisonixError, nearest
from clisonix.files import write_bytes

SCHEMA = "clisonix.plan/2"
MODEL_SCHEMA = "clisonix.model/2"
METADATA_KEY = "clisonix"
EDITED = "the form was edited after planning, so its error is not known"
_TORCH = {code: dtype for dtype, code in DTYPES.items()}


@dataclass(frozen=True)
class LayerPlan:
    """The plan for one weight.

    Attributes:
        name: its first name in `state_dict()`.
        kind: class of its layer, such as "Linear".
        shape: `(m, n)`, outputs by inputs; of a weight that cannot be compressed, the shape it has.
        form: what it becomes; `Form("keep")` when it stays as it is.
        bytes_before: of the weight now.
        bytes_after: the same after compression. Biases and the file header are counted in `Plan.file_bytes`.
        error: expected squared error of the output over its expected squared size; 0 for "keep", None when not known.
        reason: why it is kept, or what a reader should know.
        tied: its other names.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    form: Form
    bytes_before: int
    bytes_after: int
    error: float | None
    reason: str | None = None
    tied: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, in the order of the attributes."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return content | {"shape": list(self.shape), "form": self.form.to_json(), "tied": list(self.tied)}


@dataclass(frozen=True)
class Plan:
    """A plan for a whole model. `str(plan)` is a table; `to_json()` can be edited by hand.

    Attributes:
        layers: one entry for each weight, in the order of `state_dict()`.
        tensors: every tensor of the dense model's file, so that sizes are exact after an edit as well.
        budget: what the cost may be, in `unit`.
        calibrated: whether errors were measured on calibration inputs.
        objective: what is bounded: "bytes", "seconds" or "joules".
        notes: what a reader should know.
        cost_before: of the dense model, in `unit`; None when not known.
        cost_after: of the planned one; None when not known. For bytes, both are those of the files.
        unit: of the budget and the costs: "bytes", "s", "J".
    """

    layers: tuple[LayerPlan, ...]
    tensors: tuple[TensorSpec, ...]
    budget: float
    calibrated: bool
    objective: str = "bytes"
    notes: tuple[str, ...] = ()
    cost_before: float | None = None
    cost_after: float | None = None
    unit: str = "bytes"

    @property
    def forms(self) -> dict[str, Form]:
        """The form of every weight that is not kept, by name."""
        return {layer.name: layer.form for layer in self.layers if layer.form != KEEP}

    @property
    def file_bytes(self) -> int:
        """Exact size of the file that `save` writes for the compressed model."""
        shapes = {layer.name: layer.shape for layer in self.layers}
        return planned_bytes(self.tensors, {name: (form, shapes[name]) for name, form in self.forms.items()})

    @property
    def dense_file_bytes(self) -> int:
        """Exact size of the file that `save` writes for the dense model."""
        return planned_bytes(self.tensors, {})

    def layer(self, name: str) -> LayerPlan:
        """The entry of one weight.

        Raises:
            ClisonixError: there is none of that name.
        """
        for layer in self.layers:
            if name == layer.name or name in layer.tied:
                return layer
        raise ClisonixError(f"the plan has no weight {name!r}{nearest(name, (layer.name for layer in self.layers))}")

    def with_form(self, name: str, form: Form) -> Plan:
        """The same plan with another form for one weight. Its error is then unknown.

        Raises:
            ClisonixError: no such weight, or a form it cannot have.
        """
        if not isinstance(form, Form):
            raise ClisonixError(f"{form!r} is no form; give a Form, such as Form('lowrank', rank=8)")
        changed = edited(self.layer(name), form, {spec.name: spec for spec in self.tensors})
        layers = tuple(changed if layer.name == changed.name else layer for layer in self.layers)
        # What time or energy the new form takes was never measured.
        return replace(self, layers=layers, cost_after=None)

    def with_rank(self, name: str, rank: int | None) -> Plan:
        """`with_form` for a low rank; a low rank or a double binary keeps what else its form says. None: dense.

        Raises:
            ClisonixError: as `with_form`.
        """
        form = self.layer(name).form
        if rank is None:
            return self.with_form(name, KEEP)
        return self.with_form(name, replace(form, rank=rank) if form.rank is not None else Form("lowrank", rank=rank))

    def diff(self, other: Plan) -> str:
        """What `other` does differently, a line for each weight and one for the file; empty where nothing differs."""
        from clisonix.compress.tables import difference

        return difference(self, other)

    def to_json(self) -> str:
        """Indented JSON, one line per weight and per tensor."""
        head: dict[str, Any] = {
            "schema": SCHEMA,
            "objective": self.objective,
            "unit": self.unit,
            "budget": self.budget,
            "cost_before": self.cost_before,
            "cost_after": self.cost_after,
            "file_bytes": self.file_bytes,
            "dense_file_bytes": self.dense_file_bytes,
            "calibrated": self.calibrated,
            "notes": list(self.notes),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in head.items()]
        layers = ",\n".join(f"    {json.dumps(layer.to_json(), allow_nan=False)}" for layer in self.layers)
        tensors = ",\n".join(f"    {json.dumps(list(spec))}" for spec in self.tensors)
        lines += [f'  "layers": [\n{layers}\n  ]', f'  "tensors": [\n{tensors}\n  ]']
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read `to_json()` back, edited or not; sizes are worked out again from the forms.

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
        from clisonix.compress.tables import table

        return table(self)


def compressed_specs(
    tensors: Iterable[TensorSpec], forms: Mapping[str, tuple[Form, tuple[int, ...]]]
) -> list[TensorSpec]:
    """The tensors of the compressed model's file.

    Args:
        tensors: those of the dense one.
        forms: form and shape `(m, n)` of each weight that is not kept, by name.
    """
    specs: list[TensorSpec] = []
    for spec in tensors:
        form, shape = forms.get(spec.name, (KEEP, ()))
        specs += [spec] if form == KEEP else form.specs(spec.name, matrix_shape(spec.name, shape), _TORCH[spec.dtype])
    return specs


def file_metadata(forms: Mapping[str, Form]) -> dict[str, str]:
    """What a model file says about its own structure. One key, sorted inside: the same model, the same bytes.

    The version is that of the format, not of the package, so that a size planned today holds tomorrow.

    Args:
        forms: of each weight that is not kept, each with the dtype of its floats where that is not float32.
    """
    plan = {name: form.to_json() for name, form in sorted(forms.items())} or None
    return {METADATA_KEY: json.dumps({"schema": MODEL_SCHEMA, "plan": plan}, separators=(",", ":"))}


def stored_form(form: Form, code: str) -> Form:
    """`form` as files name it, for a weight whose dtype safetensors spells `code`."""
    dtype = str(form.float_dtype(_TORCH[code])).removeprefix("torch.")
    return replace(form, dtype=None if dtype == "float32" else dtype)


def planned_bytes(tensors: Iterable[TensorSpec], forms: Mapping[str, tuple[Form, tuple[int, ...]]]) -> int:
    """Exact size of a compressed model's file, from the tensors of the dense one, and form and shape by weight."""
    dense = list(tensors)
    codes = {spec.name: spec.dtype for spec in dense}
    named = {name: stored_form(form, codes[name]) for name, (form, _) in forms.items()}
    return file_bytes(compressed_specs(dense, forms), file_metadata(named))


def matrix_shape(name: str, shape: tuple[int, ...]) -> Shape:
    """`shape`, if it is that of a matrix.

    Raises:
        ClisonixError: it is not.
    """
    if len(shape) != 2:
        raise ClisonixError(f"{name!r} has shape {shape}, which is no matrix; keep it")
    return shape[0], shape[1]


def edited(layer: LayerPlan, form: Form, tensors: Mapping[str, TensorSpec]) -> LayerPlan:
    """`layer` with a form that nobody planned.

    Raises:
        ClisonixError: a form that its shape does not allow.
    """
    if form == KEEP:
        why = layer.reason if layer.form == KEEP else "kept by an edit"
        return replace(layer, form=KEEP, bytes_after=layer.bytes_before, error=0.0, reason=why)
    shape = matrix_shape(layer.name, layer.shape)
    form.check(layer.name, shape)
    if layer.name not in tensors:
        raise ClisonixError(f"the plan's tensors lack {layer.name!r}; plan the model anew")
    size = form.nbytes(shape, _TORCH[tensors[layer.name].dtype])
    return replace(layer, form=form, bytes_after=size, error=None, reason=EDITED)
