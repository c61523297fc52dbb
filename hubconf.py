"""What `torch.hub` finds in this repository: the reference model, and models that were compressed with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

dependencies = ["torch", "numpy", "safetensors"]


def stream_transformer(modalities: Mapping[str, Any], classes: int, **sizes: Any) -> nn.Module:  # noqa: ANN401
    """The reference model over streams, with random weights; see `clisonix.models.StreamTransformer`.

    Args:
        modalities: by name, how each stream is cut into tokens: the fields of `clisonix.models.TokenSpec` as a dict.
        classes: number of classes.
        sizes: `width`, `depth`, `heads`, `expansion`, `dropout`.
    """
    from clisonix.models import StreamTransformer, TokenSpec

    specs = {name: spec if isinstance(spec, TokenSpec) else TokenSpec(**spec) for name, spec in modalities.items()}
    return StreamTransformer(specs, classes, **sizes)


def compressed(path: str | Path, into: nn.Module, **options: Any) -> nn.Module:  # noqa: ANN401
    """The model in a file that `clisonix.save` wrote; see `clisonix.load`.

    Args:
        path: of the file.
        into: a dense model of the original architecture, freshly made or on the meta device.
        options: `device`.
    """
    import clisonix

    return clisonix.load(path, into=into, **options)
