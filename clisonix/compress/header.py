"""What the metadata of a model file declares: the form of every compressed weight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clisonix.compress.forms import KEEP, Form
from clisonix.compress.plans import METADATA_KEY, MODEL_SCHEMA
from clisonix.errors import ClisonixError

_OLD = "clisonix.model/1"


def declared_forms(metadata: Mapping[str, str] | None, path: str | Path) -> dict[str, Form]:
    """The forms in the metadata of a file, by weight; each says its dtype. None at all for a plain file.

    Whether they suit a model, and the tensors in the file, is checked later.

    Raises:
        ClisonixError: metadata that this program did not write.
    """
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        return {}
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClisonixError(f"{path} is damaged: its plan is not valid JSON; copy the file again") from error
    match content:
        case {"schema": str(schema)} if schema not in (MODEL_SCHEMA, _OLD):
            raise ClisonixError(
                f"{path} has format {schema!r} but this version reads {MODEL_SCHEMA!r}; update clisonix"
            )
        case {"schema": str(), "plan": None, **rest} if not rest:
            return {}
        case {"schema": str(schema), "plan": dict(plan), **rest} if not rest:
            read = _old_form if schema == _OLD else _form
            return dict(read(name, entry, path) for name, entry in plan.items())
    raise ClisonixError(f"{path} is damaged: its plan is not one this program wrote; copy the file again")


def _form(name: str, entry: object, path: str | Path) -> tuple[str, Form]:
    try:
        form = Form.from_json(entry)
    except ClisonixError as error:
        raise ClisonixError(f"{path} is damaged: its plan for {name!r}: {error}") from None
    if form == KEEP:
        raise ClisonixError(f"{path} is damaged: it plans to keep {name!r}, which goes without saying; copy it again")
    return name, replace(form, dtype=form.dtype or "float32")


def _old_form(layer: str, entry: object, path: str | Path) -> tuple[str, Form]:
    """Version 1 knew ranks of layers, in the dtype of the model."""
    match entry:
        case ["lowrank", int(rank)] if not isinstance(rank, bool):
            return (f"{layer}.weight" if layer else "weight"), Form("lowrank", rank=rank)
    raise ClisonixError(f"{path} is damaged: it plans {entry!r} for layer {layer!r}; expected ['lowrank', rank]")
