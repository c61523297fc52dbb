"""The size of a file is known before it is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from clisonix.compress import compress, plan
from clisonix.compress.plans import compressed_specs, file_metadata, stored_form
from clisonix.compress.sizes import DTYPES, file_bytes, spec_of, stored_tensors


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), min_size=1, max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 12), max_size=3)),
        max_size=8,
    ),
    st.none() | st.dictionaries(st.text('ab"\\\n\té', max_size=6), st.text('ab"\\\n\té', max_size=9)),
)
def test_the_computed_size_is_the_real_one(
    tmp_path_factory: pytest.TempPathFactory, entries: Any, metadata: dict[str, str] | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "sizes.safetensors"
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in entries.items()}
    save_file(tensors, file, metadata=metadata)
    specs = [spec_of(name, tensor) for name, tensor in tensors.items()]
    assert file_bytes(specs, metadata) == file.stat().st_size


def test_planned_tensors_are_those_of_the_modules(pair: tuple[nn.Module, Any]) -> None:
    model, _ = pair
    made = plan(model, budget=0.6)
    small = compress(model, made)
    held = {spec_of(name, tensor) for name, tensor in stored_tensors(small).items()}
    forms = {name: (form, made.layer(name).shape) for name, form in made.forms.items()}
    assert forms
    assert held == set(compressed_specs(made.tensors, forms))
    stored = {name: stored_form(form, "F32") for name, form in made.forms.items()}
    assert file_bytes(held, file_metadata(stored)) == made.file_bytes
