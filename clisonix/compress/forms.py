"""The name of a matrix's structure: small, in words and whole numbers, and enough to know its every tensor.

>>> import torch
>>> from clisonix.compress.forms import Form, form_of
>>> form = Form("lowrank", rank=8, bits=4)
>>> form.to_json(), form.nbytes((64, 64), torch.float16)
({'kind': 'lowrank', 'rank': 8, 'bits': 4}, 656)
>>> form_of(form.empty((64, 64))) == form
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch

from clisonix.compress.blank import blank
from clisonix.compress.sizes import TensorSpec, spec_of
from clisonix.errors import ClisonixError, nearest
from clisonix.liam.matrix import Matrix

Shape = tuple[int, int]
# What a form may be stored in when it is not the model's own dtype.
FLOATS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_NUMBERS = ("rank", "bits", "group", "nnz", "block", "inner")
# A sum of products of packed low ranks is this deep; what says more or has more parts is none of this program.
_DEPTH = 6
_MOST_PARTS = 16
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class _Kind:
    """The fields a kind must have and may have, and of how many parts it is made (None: one or more)."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    parts: tuple[int, ...] | None = (0,)


KINDS = {
    "keep": _Kind(),
    "dense": _Kind(),
    "diagonal": _Kind(),
    "lowrank": _Kind(("rank",), ("bits", "group"), parts=(0, 2)),
    "integer": _Kind(("bits", "group")),
    "ternary": _Kind(),
    "binary": _Kind(),
    "double binary": _Kind(("rank",)),
    "sparse": _Kind(("nnz",)),
    "two of four": _Kind(),
    "block sparse": _Kind(("nnz", "block")),
    "latent binary": _Kind(),
    "latent ternary": _Kind(),
    "transpose": _Kind(parts=(1,)),
    "sum": _Kind(parts=None),
    "product": _Kind(("inner",), parts=None),
}


@dataclass(frozen=True)
class Form:
    """The structure of one weight `(m, n)`, whatever its values.

    Attributes:
        kind: one of `KINDS`; "keep" leaves the weight as it is.
        rank: inner size of "lowrank" and "double binary".
        bits: of an entry of "integer", or of the packed factors of "lowrank".
        group: columns that share a scale; None for packed factors with one scale a row.
        nnz: values of "sparse", blocks of "block sparse".
        block: rows and columns of a block.
        inner: sizes between the factors of a "product".
        parts: forms it is made of: both factors of a "lowrank", the terms of a "sum", the factors of a "product".
        dtype: of the floating-point tensors, such as "float16"; None for that of the model's weight.

    Raises:
        ClisonixError: an unknown kind, or a field that the kind lacks, has not, or that makes no sense.
    """

    kind: str
    rank: int | None = None
    bits: int | None = None
    group: int | None = None
    nnz: int | None = None
    block: tuple[int, int] | None = None
    inner: tuple[int, ...] | None = None
    parts: tuple[Form, ...] = ()
    dtype: str | None = None

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind) if isinstance(self.kind, str) else None
        if kind is None:
            raise ClisonixError(f"the form {self.kind!r} is unknown{nearest(str(self.kind), KINDS)}")
        for field in _NUMBERS:
            value = getattr(self, field)
            if value is None:
                if field in kind.required:
                    raise ClisonixError(f"the form {self.kind!r} lacks {field!r}; give it")
            elif field not in kind.required + kind.optional:
                raise ClisonixError(f"the form {self.kind!r} has {field!r}, which means nothing there; leave it out")
            else:
                _check_number(self.kind, field, value)
        self._check_parts(kind)
        if self.dtype is not None and (self.dtype not in FLOATS or self.kind == "keep"):
            raise ClisonixError(f"the form {self.kind!r} has dtype {self.dtype!r}; give one of {', '.join(FLOATS)}")

    def _check_parts(self, kind: _Kind) -> None:
        count = len(self.parts)
        if not (count in kind.parts if kind.parts is not None else 0 < count <= _MOST_PARTS):
            expected = f"1 to {_MOST_PARTS}" if kind.parts is None else " or ".join(map(str, kind.parts))
            raise ClisonixError(f"the form {self.kind!r} has {count} parts; give {expected}")
        if self.kind == "product" and len(self.inner or ()) != count - 1:
            raise ClisonixError(f"a product of {count} parts has {len(self.inner or ())} inner sizes; give one less")
        if (self.kind == "lowrank") and ((self.parts and self.bits) or (self.group and not self.bits)):
            raise ClisonixError(
                "a low rank has the bits of its factors and perhaps their group, or the form of each in parts"
            )
        for part in self.parts:
            if part.kind == "keep" or part.dtype is not None:
                raise ClisonixError(
                    f"a part of the form {self.kind!r} is kept or has a dtype of its own; leave that out"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: the kind, and only the fields that the kind has."""
        content: dict[str, Any] = {"kind": self.kind}
        for field in _NUMBERS:
            value = getattr(self, field)
            if value is not None:
                content[field] = list(value) if isinstance(value, tuple) else value
        if self.parts:
            content["parts"] = [part.to_json() for part in self.parts]
        if self.dtype is not None:
            content["dtype"] = self.dtype
        return content

    @staticmethod
    def from_json(content: object, depth: int = _DEPTH) -> Form:
        """Read `to_json()` back.

        Raises:
            ClisonixError: not such an object, or one that makes no sense.
        """
        if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
            raise ClisonixError(f"{str(content)[:80]!r} is no form; give an object with a kind and its numbers")
        if depth == 0:
            raise ClisonixError(
                f"a form has more than {_DEPTH} forms within one another; that is none of this program"
            )
        known = ("kind", *_NUMBERS, "parts", "dtype")
        for key in content:
            if key not in known:
                raise ClisonixError(f"the form {content['kind']!r} has the unknown key {key!r}{nearest(key, known)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        parts = values.pop("parts", ())
        if not isinstance(parts, tuple):
            raise ClisonixError(f"the form {content['kind']!r} has parts {parts!r}; give a list of forms")
        return Form(**values, parts=tuple(Form.from_json(part, depth - 1) for part in parts))

    def check(self, name: str, shape: Shape) -> None:
        """Raise a ClisonixError that names the weight unless one of this shape can have this form."""
        m, n = shape
        full = min(m, n)
        if self.kind in ("lowrank", "double binary"):
            # Signs are an 8th of a byte: beyond this they weigh more than the widest dense weight.
            most = full if self.kind == "lowrank" else 64 * full
            if self.rank is not None and self.rank > most:
                raise ClisonixError(
                    f"{name!r} has rank {self.rank} but its weight is {shape}; give a whole number from 1 to {most}"
                )
        blocks = (-(-m // self.block[0])) * (-(-n // self.block[1])) if self.block else m * n
        if self.nnz is not None and self.nnz > blocks:
            raise ClisonixError(f"{name!r} has nnz {self.nnz} but its weight is {shape}; give at most {blocks}")
        if self.inner and max(self.inner) > 64 * max(m, n):
            raise ClisonixError(f"{name!r} has inner sizes {self.inner} but its weight is {shape}; give smaller ones")
        if self.kind == "diagonal" and m != n:
            raise ClisonixError(f"{name!r} is to be diagonal but its weight is {shape}; only square ones can be")
        for part, part_shape in zip(self.parts, self.part_shapes(shape), strict=True):
            part.check(name, part_shape)

    def part_shapes(self, shape: Shape) -> list[Shape]:
        """The shape of each part of a weight `(m, n)`."""
        m, n = shape
        match self.kind:
            case "transpose":
                return [(n, m)]
            case "product" | "lowrank" if self.parts:
                sizes = [m, *((self.rank,) if self.rank is not None else self.inner or ()), n]
                return list(pairwise(sizes))
        return [shape] * len(self.parts)

    def empty(self, shape: Shape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Matrix:
        """A matrix of this form whose floats are zero and whose places, if it has any, are lawful.

        Args:
            shape: `(m, n)`.
            dtype: of the model's weight; the form's own goes before it.
            device: "meta" allocates nothing.

        Raises:
            ClisonixError: the shape does not allow it, or the form is "keep".
        """
        self.check("the weight", shape)
        return blank(self, shape, self.float_dtype(dtype), torch.device(device))

    def float_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the floats of a matrix of this form are where the model's weight is `dtype`."""
        return dtype if self.dtype is None else FLOATS[self.dtype]

    def specs(self, prefix: str, shape: Shape, dtype: torch.dtype = torch.float32) -> list[TensorSpec]:
        """What a file holds of a weight named `prefix`, as `stored_tensors` would name it."""
        return [
            TensorSpec(f"{prefix}.{suffix}" if suffix else prefix, code, size)
            for suffix, code, size in _specs(self, shape, dtype)
        ]

    def nbytes(self, shape: Shape, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of tensor data in a file, without the header."""
        return sum(spec.nbytes for spec in _specs(self, shape, dtype))

    def __str__(self) -> str:
        """As a table shows it: "low rank 12, 4 bits"."""
        words = [{"lowrank": "low rank"}.get(self.kind, self.kind)]
        if self.rank is not None:
            words.append(str(self.rank))
        if self.nnz is not None:
            words.append(f"{self.nnz:,}")
        text = " ".join(words)
        if self.parts:
            text += f" ({', '.join(map(str, self.parts))})"
        if self.bits is not None:
            text += f", {self.bits} bits"
        if self.group is not None:
            text += f" by {self.group}"
        if self.block is not None:
            text += f", {self.block[0]}×{self.block[1]}"
        return text if self.dtype is None else f"{text}, {self.dtype}"


KEEP = Form("keep")


def form_of(matrix: Matrix, dtype: torch.dtype | None = None) -> Form:
    """The form of a matrix.

    Args:
        matrix: of any kind that `KINDS` names.
        dtype: of the model's weight: the form says its own dtype where that differs. None: it says none.

    Raises:
        ClisonixError: a matrix that no form describes, with its type.
    """
    from clisonix.compress.structure import structure_of

    form = structure_of(matrix)
    if dtype is not None and matrix.dtype != dtype:
        form = replace(form, dtype=_NAMES.get(matrix.dtype, str(matrix.dtype)))
    held = sorted(spec_of(name, tensor) for name, tensor in matrix.state_dict(keep_vars=True).items())
    if held != sorted(_specs(form, matrix.shape, matrix.dtype)):
        raise ClisonixError(
            f"a {type(matrix).__name__} of shape {matrix.shape} holds other tensors than its form {form} says; "
            "build it anew"
        )
    return form


@lru_cache(maxsize=1 << 14)
def _specs(form: Form, shape: Shape, dtype: torch.dtype) -> tuple[TensorSpec, ...]:
    if form.kind == "keep":
        return (spec_of("", torch.empty(shape, dtype=dtype, device="meta")),)
    held = form.empty(shape, dtype, "meta").state_dict(keep_vars=True)
    return tuple(spec_of(name, tensor) for name, tensor in held.items())


def _check_number(kind: str, field: str, value: object) -> None:
    if field in ("block", "inner"):
        good = isinstance(value, tuple) and all(_whole(size, 1) for size in value)
        if not good or (field == "block" and isinstance(value, tuple) and len(value) != 2):
            raise ClisonixError(f"the form {kind!r} has {field} {value!r}; give a list of whole numbers from 1")
    elif field == "bits" and not (_whole(value, 1) and isinstance(value, int) and value <= 8):
        raise ClisonixError(f"the form {kind!r} has bits {value!r}; give a whole number from 1 to 8")
    elif not _whole(value, 0 if field == "nnz" else 1):
        raise ClisonixError(f"the form {kind!r} has {field} {value!r}; give a whole number from 1 on")


def _whole(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= _LARGEST
